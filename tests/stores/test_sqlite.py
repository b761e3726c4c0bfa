"""The SQLite store passes the contract, and survives what happens to files and processes."""

from contract import DurableContract

from server.stores.sqlite import SqliteStore


class TestSqlite(DurableContract):
    """All of it."""

    def new(self, settings):
        return SqliteStore(settings)

    def tables(self, tmp_path):
        return {"kind": "sqlite", "path": str(tmp_path / "streams.db")}
