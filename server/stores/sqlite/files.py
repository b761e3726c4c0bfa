"""The files of a database: made for their owner alone, and recognised as long as they are there.

SQLite keeps the files open. If somebody deletes or replaces them, it goes on with what has no name any more, and all of
it is gone at the next start (https://www.sqlite.org/howtocorrupt.html, section 4).
"""

import errno
import os
import stat
from pathlib import Path

from server.core.errors import StoreError

PRIVATE = 0o600  # the file holds prompts
SUFFIXES = ("", "-wal", "-shm")

Identity = tuple[int, int]  # device and inode


class Files:
    """The database at `path`, its write-ahead log, and the index of that."""

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
        self._known: dict[Path, Identity] = {}

    def prepare(self) -> None:
        """Make the database, or see to it that only its owner can read it. Raises OSError, StoreError.

        SQLite would make it for the whole machine to read; -wal and -shm get the mode of the database. A link would be
        followed to a file that is not ours, and whose mode would be changed.
        """
        path = self._paths[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        for one in self._paths:
            if one.is_symlink():
                raise StoreError(f"The database {path} cannot be opened: {one.name} is a symbolic link.")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            file = os.open(path, flags, PRIVATE)
        except OSError as error:
            if error.errno == errno.ELOOP:  # it was put there just now
                raise StoreError(f"The database {path} cannot be opened: it is a symbolic link.") from error
            raise
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
                raise StoreError(f"The database {path} cannot be opened: it is no file, or one with several names.")
            if stat.S_IMODE(facts.st_mode) != PRIVATE:
                os.fchmod(file, PRIVATE)
        finally:
            os.close(file)

    def remember(self) -> None:
        """Note which files are open now."""
        self._known = {path: identity for path in self._paths if (identity := _identity(path)) is not None}

    def missing(self) -> Path | None:
        """Return the first path that does not lead to the file that is open; None if all do."""
        return next((path for path, identity in self._known.items() if _identity(path) != identity), None)


def _identity(path: Path) -> Identity | None:
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
