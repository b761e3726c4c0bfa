"""Floor 5: what clients talk to."""
