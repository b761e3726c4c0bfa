"""Decides what to do after a failed attempt. Decisions are pure functions; the relay carries them out."""
