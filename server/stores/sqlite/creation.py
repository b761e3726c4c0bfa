"""Creating logs in the SQLite store: many in one statement, or finding the log that has an idempotency key."""

import time
from collections.abc import Sequence
from typing import Any

from server.stores.creation import Creation
from server.stores.sqlite.database import Connection, checksum

NOTHING_LOST = "[]"
ROW = f", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, '{NOTHING_LOST}', {checksum(NOTHING_LOST.encode())})"
COLUMNS = "id, owner, idempotency, beginning, body, crc, instance, boot, active, retention, epoch, lost, lost_crc"
AT_ONCE = 1000  # logs; SQLite takes 32,766 values in a statement


class Creator:
    """Creates logs that are held by `instance`, which runs in the boot `boot` of the machine."""

    def __init__(self, instance: str, boot: str, retention: float) -> None:
        self._instance = instance
        self._boot = boot
        self._retention = retention

    def create(self, db: Connection, creations: Sequence[Creation]) -> list[int | str]:
        """Return the number of each new log, or the id of the log that has its key."""
        nums = self._insert(db, [creation for creation in creations if creation.beginning.idempotency is None])
        nums.reverse()
        return [
            nums.pop() if creation.beginning.idempotency is None else self._keyed(db, creation)
            for creation in creations
        ]

    def _keyed(self, db: Connection, creation: Creation) -> int | str:
        beginning = creation.beginning
        assert beginning.idempotency is not None
        owner, key = beginning.owner, beginning.idempotency[0]
        query = """UPDATE logs SET idempotency = NULL
            WHERE owner = ? AND idempotency = ? AND ended + coalesce(retention, ?) <= ?"""
        db.execute(query, (owner, key, self._retention, time.time()))
        row = db.execute("SELECT id FROM logs WHERE owner = ? AND idempotency = ?", (owner, key)).fetchone()
        return str(row[0]) if row is not None else self._insert(db, [creation])[0]

    def _insert(self, db: Connection, creations: Sequence[Creation]) -> list[int]:
        nums: list[int] = []
        for at in range(0, len(creations), AT_ONCE):
            some = creations[at : at + AT_ONCE]
            values = [value for creation in some for value in self._values(creation)]
            query = f"INSERT INTO logs ({COLUMNS}) VALUES{(ROW * len(some))[1:]}"
            last = db.execute(query, values).lastrowid or 0
            nums += range(last - len(some) + 1, last + 1)  # there is one writer: the numbers follow each other
        return nums

    def _values(self, creation: Creation) -> tuple[Any, ...]:
        beginning, facts = creation.beginning, creation.facts
        key = beginning.idempotency[0] if beginning.idempotency else None
        crc = checksum(facts, beginning.body)
        return (
            beginning.id,
            beginning.owner,
            key,
            facts,
            beginning.body,
            crc,
            self._instance,
            self._boot,
            beginning.created,
            beginning.retention,
        )
