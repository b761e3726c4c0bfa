"""The configuration: its settings, how a file is checked, and the plug-ins that it may name."""

from server.config.settings import Settings

__all__ = ["Settings"]
