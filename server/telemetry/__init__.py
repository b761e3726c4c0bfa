"""Logs, metrics and traces. None of them ever holds a prompt, an answer or a key."""
