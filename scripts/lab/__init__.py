"""The parts of every experiment: processes, and the places between an upstream and its clients."""
