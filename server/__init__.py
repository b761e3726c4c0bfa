"""Sluiceway: a gateway that streams large language models to clients and loses nothing on the way."""

__version__ = "0.1.0"
