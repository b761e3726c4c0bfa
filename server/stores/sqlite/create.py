"""Making logs in the SQLite store: many in one statement, or finding the one that has an idempotency key."""

import time
from collections.abc import Sequence
from typing import Any

from server.core.records import Birth, dump_birth
from server.stores.sqlite.database import Connection, checksum

NONE_LOST = b"[]"  # the schema's default
ROW = f", (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, {checksum(NONE_LOST)})"
COLUMNS = "id, owner, idempotency, birth, body, crc, instance, boot, active, epoch, lost_crc"
AT_ONCE = 1000  # logs; SQLite takes 32,766 values in a statement


class Births:
    """Makes logs that are held by `instance`, which runs in the boot `boot` of the machine."""

    def __init__(self, instance: str, boot: str, retention: float) -> None:
        self._instance = instance
        self._boot = boot
        self._retention = retention

    def make(self, db: Connection, births: Sequence[Birth]) -> list[int | str]:
        """Return the number of each new log, or the id of the one that has its key."""
        made = self._insert(db, [birth for birth in births if birth.idempotency is None])
        made.reverse()
        return [made.pop() if birth.idempotency is None else self._keyed(db, birth) for birth in births]

    def _keyed(self, db: Connection, birth: Birth) -> int | str:
        assert birth.idempotency is not None
        owner, key = birth.owner, birth.idempotency[0]
        over = time.time() - self._retention
        query = "UPDATE logs SET idempotency = NULL WHERE owner = ? AND idempotency = ? AND ended <= ?"
        db.execute(query, (owner, key, over))
        row = db.execute("SELECT id FROM logs WHERE owner = ? AND idempotency = ?", (owner, key)).fetchone()
        return str(row[0]) if row is not None else self._insert(db, [birth])[0]

    def _insert(self, db: Connection, births: Sequence[Birth]) -> list[int]:
        nums: list[int] = []
        for at in range(0, len(births), AT_ONCE):
            some = births[at : at + AT_ONCE]
            values = [value for birth in some for value in self._values(birth)]
            query = f"INSERT INTO logs ({COLUMNS}) VALUES{(ROW * len(some))[1:]}"
            last = db.execute(query, values).lastrowid or 0
            nums += range(last - len(some) + 1, last + 1)  # the only writer: they follow each other
        return nums

    def _values(self, birth: Birth) -> tuple[Any, ...]:
        facts, key = dump_birth(birth), birth.idempotency[0] if birth.idempotency else None
        crc = checksum(facts, birth.body)
        return birth.id, birth.owner, key, facts, birth.body, crc, self._instance, self._boot, birth.created
