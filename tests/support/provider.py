"""The scripted provider as a fixture: a real process that does on the wire what its scripts say."""

from lab.provider import Provider

__all__ = ["Provider"]
