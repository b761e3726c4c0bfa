"""Floor 0, sans-I/O: takes bytes and values, returns values, never awaits."""
