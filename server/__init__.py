"""Sluiceway: a gateway that streams the answers of large language models to clients and loses nothing on the way."""

__version__ = "0.1.0"
