"""The configuration: the settings, the check of a file, and the plug-ins that a file may name."""

from server.config.settings import Settings

__all__ = ["Settings"]
