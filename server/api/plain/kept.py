"""What has come of an upload and may be sent again: in memory up to a bound, in a file, or not at all any more."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, TypeVar

from server.aio.threads import WorkerThread
from server.core.errors import Rejected
from server.streams.bodies import Arriving, Bodies

REPLAYED = 4_194_304  # bytes of an upload that are kept in memory, so that another target can be asked
PIECE = 65_536  # bytes that are read of a file at once
Result = TypeVar("Result")


class Files:
    """The temporary files of all uploads, which have no name. `bytes` bounds them together.

    One thread reads and writes them: a slow disk must not hold up the event loop.
    """

    def __init__(self, most: int) -> None:
        self.bytes = Bodies(most)
        self._thread: WorkerThread | None = None

    @property
    def thread(self) -> WorkerThread:
        """The thread. It begins with its first use."""
        if self._thread is None:
            self._thread = WorkerThread("uploads")
        return self._thread

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.stop()


class Kept:
    """The first bytes of one upload. `put` adds to them, and must not be cancelled; `get` reads them again.

    While `spill` is set, what does not fit into memory goes into a file, so that nothing is lost. Without it everything
    is dropped then, and `whole` is false from there on.
    """

    def __init__(self, memory: Arriving, on_disk: Arriving, files: Files) -> None:
        self.spill = True
        self.whole = True
        self._size = 0
        self._memory = memory
        self._on_disk = on_disk
        self._files = files
        self._data = bytearray()
        self._in_file = False
        self._file: IO[bytes]  # once `_in_file` is set; only the thread uses it

    @classmethod
    @contextmanager
    def of(cls, bodies: Bodies, owner: str, files: Files) -> "Iterator[Kept]":
        """Keep an owner's upload while the block runs. What is in memory counts in `bodies`."""
        with Arriving(bodies, owner) as memory, Arriving(files.bytes, owner) as on_disk:
            kept = cls(memory, on_disk, files)
            try:
                yield kept
            finally:
                if kept._in_file:
                    files.thread.give(kept._close, lambda _result, _error: None)  # after the jobs that still wait

    async def put(self, data: bytes) -> None:
        """Add data, or drop everything. Raises Rejected 429 or 503: there is no room for it."""
        if not self.whole:
            return
        self._size += len(data)
        if self._in_file:
            self._on_disk.grow(len(data))
            await self._in_thread(partial(self._append, data))
        elif self._size <= REPLAYED and self._has_room(len(data)):
            self._data += data
        elif self.spill:
            self._on_disk.grow(self._size)
            self._in_file = True
            await self._in_thread(partial(self._create, bytes(self._data) + data))
            self._forget()
        else:
            self.whole = False
            self._forget()

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes more may be in memory. If so, they count from now on."""
        try:
            self._memory.grow(size)
        except Rejected:
            return False
        return True

    async def get(self, at: int) -> bytes:
        """Return some bytes from place `at` on, empty at the end. Raises Rejected 503."""
        assert self.whole
        if not self._in_file:
            return bytes(self._data[at : at + PIECE])
        return await self._in_thread(partial(self._read, at))

    def _forget(self) -> None:
        self._memory.give_back()
        self._data = bytearray()

    # --- in the thread -----------------------------------------------------------------------------------------------

    async def _in_thread(self, job: Callable[[], Result]) -> Result:
        try:
            return await self._files.thread.run(job)
        except OSError as error:
            words = f"The upload found no room on the disk: {error.strerror}."
            raise Rejected(503, words, "upload_not_kept", retry_after=1.0) from None

    def _create(self, data: bytes) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 — `_close` closes it
        self._append(data)

    def _append(self, data: bytes) -> None:
        self._file.seek(0, 2)
        self._file.write(data)

    def _read(self, at: int) -> bytes:
        self._file.seek(at)
        return self._file.read(PIECE)

    def _close(self) -> None:
        if hasattr(self, "_file"):  # it could be created
            self._file.close()
