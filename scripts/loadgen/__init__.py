"""The load generator behind ``scripts/load``: many streams at once, every id and byte of them checked."""
