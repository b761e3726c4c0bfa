"""What the SQLite store may say is held by this process, though nothing here holds it.

A claim or a creation may have been made though its caller was told that it failed, or had left. Nobody would relay such
a log then, and nobody else could take it over: its holder is alive. So it is given back with the next lease.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from server.stores.sqlite.database import Connection


class Claim:
    """A claim that is being made."""

    epoch = 0  # that it begins; 0: none yet, or the log cannot be claimed


class Doubtful:
    """The claims and creations of `instance` that nobody may know of: numbers and epochs of logs, and ids."""

    def __init__(self, instance: str, claims: Iterable[tuple[int, int]] = (), beginnings: Iterable[str] = ()) -> None:
        self.beginnings = set(beginnings)
        self.claims = set(claims)
        self._instance = instance

    @contextmanager
    def unless_held(self, num: int) -> Iterator[Claim]:
        """Make a claim of a log; it is doubtful unless the block comes to its end."""
        claim = Claim()
        before = {one for one in self.claims if one[0] == num}
        self.claims -= before  # where the log is ours, this claim succeeds
        try:
            yield claim
        except BaseException:
            self.claims |= before | {(num, claim.epoch)}
            raise

    def give_back(self, db: Connection) -> None:
        """Let everybody claim these logs, and delete those that nobody has begun; both only as far as they are ours."""
        query = "UPDATE logs SET instance = NULL WHERE num = ? AND epoch = ? AND instance = ?"
        db.executemany(query, [(*claim, self._instance) for claim in self.claims])
        query = "DELETE FROM logs WHERE id = ? AND epoch = 1 AND tail = 0 AND instance = ?"
        db.executemany(query, [(beginning, self._instance) for beginning in self.beginnings])

    def now(self) -> "Doubtful":
        """Return what there is at present."""
        return Doubtful(self._instance, self.claims, self.beginnings)

    def settle(self, given_back: "Doubtful") -> None:
        """Forget what has been given back."""
        self.claims -= given_back.claims
        self.beginnings -= given_back.beginnings
