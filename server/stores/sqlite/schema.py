"""The schema of the SQLite store, and the steps by which a database of an older version comes to it."""

import sqlite3
from pathlib import Path

from server.core.errors import StoreError

# Each step takes a database from the version of its index to the next one; they are never changed, only added to.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE instances (  -- who may hold logs; on the clock of this boot of the machine
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
        instance TEXT,              -- who may append; NULL: ended, or given back by an orderly stop
        boot TEXT NOT NULL,         -- the boot of the machine in which it was claimed last
        epoch INTEGER NOT NULL,
        target TEXT NOT NULL DEFAULT '',
        tail INTEGER NOT NULL DEFAULT 0,   -- of what is in `chunks`
        size INTEGER NOT NULL DEFAULT 0,   -- bytes of data up to `tail`
        lost TEXT NOT NULL DEFAULT '[]',   -- JSON: runs of record numbers that are not there
        active REAL NOT NULL,
        followed REAL NOT NULL DEFAULT 0,  -- when another instance read it last, on the clock of `instances`
        ended REAL,
        ending BLOB
    );
    CREATE UNIQUE INDEX logs_idempotency ON logs (owner, idempotency) WHERE idempotency IS NOT NULL;
    CREATE INDEX logs_ended ON logs (ended);
    CREATE TABLE claims (           -- what an instance reads to learn that it was fenced
        at INTEGER PRIMARY KEY AUTOINCREMENT,
        log INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        made REAL NOT NULL
    );
    CREATE TABLE journal (          -- one row a commit: what all streams appended in it
        at INTEGER PRIMARY KEY AUTOINCREMENT,
        written REAL NOT NULL,
        data BLOB NOT NULL
    );
    CREATE TABLE chunks (           -- many records of one log that follow each other
        at INTEGER PRIMARY KEY,
        log INTEGER NOT NULL,
        first INTEGER NOT NULL,
        start INTEGER NOT NULL,     -- bytes of data before `first`
        data BLOB NOT NULL
    );
    CREATE UNIQUE INDEX chunks_place ON chunks (log, first);
    """,
    # Checksums, as SQLite has none: of `data`, or of `beginning` and `body`. NULL where version 1 wrote it.
    """
    ALTER TABLE logs ADD COLUMN crc INTEGER;
    ALTER TABLE journal ADD COLUMN crc INTEGER;
    ALTER TABLE chunks ADD COLUMN crc INTEGER;
    """,
    # Of what is written later than the beginning; NULL where an older version wrote it, which may run beside this one.
    """
    ALTER TABLE logs ADD COLUMN lost_crc INTEGER;
    ALTER TABLE logs ADD COLUMN ending_crc INTEGER;
    """,
)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a database to the schema of this version, from nothing or from an older one. Raises StoreError."""
    connection.execute("BEGIN IMMEDIATE")  # two processes may start at once
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StoreError(f"The database {path} was written by a newer version of Sluiceway (schema {version}).")
        for step in MIGRATIONS[version:]:
            for statement in step.split(";\n"):
                connection.execute(statement)
        if version < len(MIGRATIONS):
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
