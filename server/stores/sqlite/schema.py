"""The schema of the SQLite store."""

import sqlite3
from pathlib import Path

from server.core.errors import StoreError

VERSION = 1  # the database's `user_version`; 0: nothing is in it yet

# Every `crc` is a checksum of what is named beside it: SQLite itself has none.
SCHEMA = """
CREATE TABLE instances (        -- who may hold logs; times are on the clock of this boot of the machine
    name TEXT PRIMARY KEY,
    boot TEXT NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE logs (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    idempotency TEXT,
    beginning BLOB NOT NULL,
    body BLOB NOT NULL,
    crc INTEGER NOT NULL,       -- of `beginning` and `body`
    instance TEXT,              -- who may append; NULL: ended, or given back by an orderly stop
    boot TEXT NOT NULL,         -- the boot of the machine in which the log was claimed last
    epoch INTEGER NOT NULL,
    target TEXT NOT NULL DEFAULT '',
    tail INTEGER NOT NULL DEFAULT 0,   -- of what is in `chunks`
    size INTEGER NOT NULL DEFAULT 0,   -- bytes of data up to `tail`
    lost TEXT NOT NULL,         -- JSON: runs of record numbers that are not there
    lost_crc INTEGER NOT NULL,
    active REAL NOT NULL,
    followed REAL NOT NULL DEFAULT 0,  -- when another instance read it last, on the clock of `instances`
    ended REAL,
    ending BLOB,
    ending_crc INTEGER NOT NULL DEFAULT 0, -- 0 is the checksum of nothing: there is no ending yet
    retention REAL              -- seconds that the log is kept after its ending; NULL: as the settings say
);
CREATE UNIQUE INDEX logs_idempotency ON logs (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX logs_ended ON logs (ended);
CREATE TABLE claims (           -- what an instance reads to learn that it was fenced
    at INTEGER PRIMARY KEY AUTOINCREMENT,
    log INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    made REAL NOT NULL
);
CREATE TABLE journal (          -- one row per commit: what all streams appended in it
    at INTEGER PRIMARY KEY AUTOINCREMENT,
    written REAL NOT NULL,
    data BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE chunks (           -- many records of one log that follow each other
    at INTEGER PRIMARY KEY,
    log INTEGER NOT NULL,
    first INTEGER NOT NULL,
    start INTEGER NOT NULL,     -- bytes of data before `first`
    data BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE UNIQUE INDEX chunks_place ON chunks (log, first);
"""
# A database of an earlier version has no retentions yet. That version reads this one's: it does not ask for them.
ADD_RETENTION = "ALTER TABLE logs ADD COLUMN retention REAL"
# What the sweep looks for every second, with and without a retention of its own.
SWEPT = """
CREATE INDEX IF NOT EXISTS logs_kept ON logs (ended + retention) WHERE retention IS NOT NULL;
CREATE INDEX IF NOT EXISTS logs_other ON logs (ended) WHERE ended IS NOT NULL AND retention IS NULL
"""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty database. Raises StoreError if another schema is in it."""
    connection.execute("BEGIN IMMEDIATE")  # two processes may start at once
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise StoreError(f"The database {path} has schema {version}; this version of Sluiceway needs {VERSION}.")
        if version == 0:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        columns = connection.execute("SELECT name FROM pragma_table_info('logs')").fetchall()
        if ("retention",) not in columns:
            connection.execute(ADD_RETENTION)
        for statement in SWEPT.split(";\n"):
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
