"""Logs in one SQLite file, which the processes of one machine share."""

from server.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
