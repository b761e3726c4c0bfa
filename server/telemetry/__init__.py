"""Floor 2: logs and metrics. Nothing here ever holds a prompt, an answer, or a key."""
