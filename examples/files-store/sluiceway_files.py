"""A store that keeps records in files, one per stream: memory holds only where each record ends.

`[store] kind = "files"`, and `path` is the folder. Nothing is taken over from an earlier process (`durable` is False),
so the folder is emptied at the start.
"""

import time
from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from server.config.settings import Settings
from server.core.errors import StoreError
from server.core.ports import Shown
from server.core.records import Beginning, Ending, Record


class FileLog:
    """One stream's records, without anything between them in the file."""

    def __init__(self, beginning: Beginning, file: Path) -> None:
        self.beginning = beginning
        self.tail = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = beginning.created
        self.target = ""
        self.file = file
        self._ends = array("Q", [0])  # of record 0 (there is none), 1, 2, …: where it ends in the file
        self._kinds: list[str] = []

    @property
    def size(self) -> int:
        """Size of all data, in bytes."""
        return self._ends[-1]

    def put(self, records: Sequence[Record], shown: Shown | None = None) -> None:  # noqa: ARG002 — the Log protocol's
        """Write records. They may be shown at once: `shown` is for a log that commits later.

        Raises StoreError, and then nothing was added.
        """
        if self.ending is not None:
            raise StoreError(f"stream {self.beginning.id} has ended")
        try:
            with self.file.open("r+b" if self.file.exists() else "w+b") as file:
                file.seek(self.size)  # over what a write that failed has left
                file.write(b"".join(record.data for record in records))
        except OSError as error:
            raise StoreError(f"{self.file} cannot be written: {error.strerror}") from error
        for record in records:
            self._ends.append(self.size + len(record.data))
            self._kinds.append(record.kind)
        self.tail += len(records)
        self.last_activity = time.time()

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Write records, the last ones with the ending. Raises StoreError, and then nothing was added."""
        self.put(records)
        self.ending = ending

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Read at least one record if there is one, then as many as fit."""
        if after >= self.tail:
            return ()
        start = self._ends[after]
        last = max(after + 1, bisect_right(self._ends, start + max_bytes, after + 1) - 1)
        try:
            with self.file.open("rb") as file:
                file.seek(start)
                data = file.read(self._ends[last] - start)
        except FileNotFoundError:
            return []  # the log has been deleted
        except OSError as error:
            raise StoreError(f"{self.file} cannot be read: {error.strerror}") from error
        return [
            Record(self._kinds[index], data[self._ends[index] - start : self._ends[index + 1] - start])
            for index in range(after, last)
        ]

    async def offset(self, cursor: int) -> int:
        """Return where record `cursor` ends."""
        return self._ends[cursor]


class FileStore:
    """All logs of this process, oldest first."""

    durable = False

    def __init__(self, settings: Settings) -> None:
        self._folder = Path(settings.store.path)
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._logs: dict[str, FileLog] = {}
        self._keys: dict[tuple[str, str], FileLog] = {}  # by owner and idempotency key

    async def open(self) -> None:
        """Make the folder, or empty it."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._folder.glob("strm_*"):
                left.unlink()
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be used: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is held open."""

    async def problem(self) -> str | None:
        """Look whether the folder is there."""
        return None if self._folder.is_dir() else f"{self._folder} is not there"

    async def create(self, beginning: Beginning) -> FileLog:
        """Begin a log, or return the one that has the idempotency key."""
        key = (beginning.owner, beginning.idempotency[0]) if beginning.idempotency else None
        if key and (known := self._keys.get(key)) and not self._over(known, time.time()):
            return known
        log = self._logs[beginning.id] = FileLog(beginning, self._folder / beginning.id)
        if key:
            self._keys[key] = log
        return log

    async def find(self, stream_id: str) -> FileLog | None:
        """Return a log, unless its retention is over."""
        log = self._logs.get(stream_id)
        return log if log and not self._over(log, time.time()) else None

    async def release_key(self, log: FileLog) -> None:
        """Forget the idempotency key of a log."""
        key = (log.beginning.owner, log.beginning.idempotency[0]) if log.beginning.idempotency else None
        if key and self._keys.get(key) is log:
            del self._keys[key]

    async def logs(self) -> AsyncIterator[FileLog]:
        """Yield every log, oldest first."""
        now = time.time()
        for log in list(self._logs.values()):
            if not self._over(log, now):
                yield log

    def _over(self, log: FileLog, now: float) -> bool:
        return log.ending is not None and now >= log.ending.at + log.beginning.kept_for(self._retention)

    async def delete(self, log: FileLog) -> bool:
        """Delete an ended log and its file."""
        if log.ending is None or self._logs.get(log.beginning.id) is not log:
            return False
        await self.release_key(log)
        del self._logs[log.beginning.id]
        log.beginning = replace(log.beginning, body=b"")  # a slow reader may keep this object for long
        log.file.unlink(missing_ok=True)
        return True

    async def sweep(self, now: float) -> None:
        """Delete logs whose retention is over, and the oldest ended ones while all are larger than the bound."""
        size = sum(log.size for log in self._logs.values())
        for log in list(self._logs.values()):
            if self._over(log, now) or (log.ending is not None and size > self._max_bytes):
                size -= log.size
                await self.delete(log)

    # --- what only a durable store has to do --------------------------------------------------------------------------

    async def claim(self, log: FileLog, *, force: bool = False) -> bool:  # noqa: ARG002 — the Store protocol's
        """Refuse: the relay of a log is in this process, or has gone for good."""
        return False

    async def renew(self) -> Sequence[FileLog]:
        """There is no lease."""
        return ()

    async def refresh(self, log: FileLog) -> None:
        """Every log is up to date."""

    async def follow(self, log: FileLog) -> None:
        """Return at once."""

    async def followed(self, log: FileLog) -> bool:  # noqa: ARG002
        """Nobody else reads."""
        return False

    async def orphans(self) -> AsyncIterator[FileLog]:
        """Yield nothing."""
        for log in ():
            yield log
