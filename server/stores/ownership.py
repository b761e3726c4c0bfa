"""Who may append to which log, as far as this process knows. Pure: no I/O, no clock, no database.

A durable store has one `Ownership`. It reports what happens, asks its database what `Ownership` wants to know, and does
what the answer says. It adds no rules of its own.

An instance holds a log in an *epoch*. Creating a log begins epoch 1, every claim begins the next one. Whoever learns of
a later epoch than his own is *fenced*: he appends nothing more.

What was created or claimed for this instance can be unknown here: the answer was lost, or the caller left. Nobody
would relay such a log, and nobody else could claim it, as its holder is alive. And a claim of another instance can go
unheard. Both are found by *reconciling*: the store lists the logs that are ours by its own books, and `reconcile`
compares that with what is held. It is `due` after anything that can have left such a difference. After an interrupted
creation or claim it is so twice: a request whose caller has left can still be on its way when the store is asked.

All of it runs in the event loop.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from server.core.records import Beginning, Ending


class Log(Protocol):
    """What is noted in a log itself: `server.stores.group_commit.BatchedLog` says what it means."""

    beginning: Beginning
    ending: Ending | None
    epoch: int
    fenced: bool
    failed: Exception | None
    moment: int

    def forget(self) -> None:
        """Let go of what takes memory: the log is deleted."""


LogT = TypeVar("LogT", bound=Log)


@dataclass(slots=True)
class _UnderWay:
    """Creations and claims of one log that have begun here and are not over."""

    count: int = 0
    heard: int = 0  # the newest epoch that was heard of meanwhile


class Ownership(Generic[LogT]):
    """The logs of one store in this process: which objects there are, and which of them may be appended to."""

    def __init__(self) -> None:
        self.held: dict[str, LogT] = {}
        self._objects: WeakValueDictionary[str, LogT] = WeakValueDictionary()
        self._under_way: dict[str, _UnderWay] = {}
        self._lost: dict[str, LogT] = {}  # fenced, and not told yet
        self._moment = 0
        self._rounds = 0  # how often reconciling is due

    # --- objects -----------------------------------------------------------------------------------------------

    def log(self, stream_id: str, make: Callable[[], LogT]) -> LogT:
        """Return the one object of a log, made by `make` if there is none yet."""
        log = self._objects.get(stream_id)
        if log is None:
            log = self._objects[stream_id] = make()
        return log

    def forget(self, now: float, retention: float) -> None:
        """Have the logs whose retention is over let go of what they hold. They are deleted, but may have readers."""
        for log in list(self._objects.values()):
            ending, beginning = log.ending, log.beginning
            if ending is not None and beginning.body and ending.at + beginning.kept_for(retention) <= now:
                log.forget()

    def ended_logs(self) -> list[LogT]:
        """Return the ended logs that something here still uses. Another instance may delete them, or a bound on all."""
        return [log for log in self._objects.values() if log.ending is not None and log.beginning.body]

    def moment(self) -> int:
        """Return a number that is larger than every one before. What is read is as old as the moment it was asked."""
        self._moment += 1
        return self._moment

    def fresh(self, log: LogT, asked: int, epoch: int) -> bool:
        """Return whether a log should take in what the store was asked for at the moment `asked`.

        An older answer can come later than a younger one, or than the appends of this process. It would take back what
        readers have been shown. An answer of a later epoch is always the younger one.
        """
        if asked < log.moment and epoch <= log.epoch:
            return False
        if log.beginning.id not in self.held:
            log.moment = max(asked, log.moment)
        return True

    # --- what happens ------------------------------------------------------------------------------------------

    @contextmanager
    def begun(self, stream_id: str) -> Iterator[None]:
        """Note that a creation or a claim begins, and ends with the block.

        If the block raises, the store may say that the log is ours though nothing here holds it.
        """
        under_way = self._under_way.setdefault(stream_id, _UnderWay())
        under_way.count += 1
        try:
            yield
        except BaseException:
            self._rounds = 2
            raise
        finally:
            under_way.count -= 1
            if not under_way.count:
                del self._under_way[stream_id]

    def created(self, log: LogT) -> None:
        """Note that a log was created here."""
        self.claimed(log, 1)

    def claimed(self, log: LogT, epoch: int) -> None:
        """Note that a log was claimed here. An append of an earlier epoch is outdated from now on."""
        stream_id = log.beginning.id
        log.epoch, log.fenced, log.failed, log.moment = epoch, False, None, self.moment()
        self._lost.pop(stream_id, None)
        self.held[stream_id] = log
        if stream_id in self._under_way and self._under_way[stream_id].heard > epoch:
            self._fence(log)

    def heard(self, stream_id: str, epoch: int) -> None:
        """Note that a log has been claimed, by another instance or by this one."""
        under_way, log = self._under_way.get(stream_id), self.held.get(stream_id)
        if under_way is not None:
            under_way.heard = max(under_way.heard, epoch)
        if log is not None and log.epoch < epoch:
            self._fence(log)

    def refused(self, log: LogT, epoch: int) -> None:
        """Note that the store has refused an append of `epoch`, as another instance has claimed the log.

        An append from before a later claim of our own says nothing about that claim.
        """
        if log.epoch == epoch and log.beginning.id in self.held:
            self._fence(log)

    def ended(self, stream_id: str) -> None:
        """Note that a log has its ending."""
        self.held.pop(stream_id, None)

    def gone(self, stream_id: str, asked: int) -> None:
        """Note that the store, asked after the moment `asked`, does not have a log: it may have been created since."""
        log = self.held.get(stream_id)
        if log is not None and log.moment < asked:
            del self.held[stream_id]

    def missed(self) -> None:
        """Note that claims may have gone unheard."""
        self._rounds = max(self._rounds, 1)

    def _fence(self, log: LogT) -> None:
        log.fenced, log.moment = True, self.moment()
        self._lost[log.beginning.id] = log
        del self.held[log.beginning.id]

    # --- what follows ------------------------------------------------------------------------------------------

    def told(self) -> list[LogT]:
        """Return the logs that have been lost to other instances, each once.

        A log that has been claimed back is not among them, and one that is being claimed back is not yet.
        """
        told = [log for stream_id, log in self._lost.items() if stream_id not in self._under_way]
        for log in told:
            del self._lost[log.beginning.id]
        return told

    def reconcile(self, asked: int, ours: Mapping[str, int]) -> list[tuple[str, int]]:
        """Compare what is held with `ours`: which logs the store says are this instance's, in which epochs.

        `asked` is a moment before the store was asked: what was held since cannot be missing in its answer. Logs
        that should be ours and are not are fenced. Returns the logs to give back, with their epochs: the store does so
        only if a log is still ours in exactly this epoch, so that a later claim keeps it.
        """
        for stream_id, log in list(self.held.items()):
            if log.moment < asked and ours.get(stream_id) != log.epoch and stream_id not in self._under_way:
                self._fence(log)
        return [
            (stream_id, epoch)
            for stream_id, epoch in ours.items()
            if stream_id not in self.held and stream_id not in self._under_way
        ]

    @property
    def due(self) -> bool:
        """Whether the store should be asked which logs are ours, and `reconcile` be called with the answer."""
        return self._rounds > 0

    @contextmanager
    def asking(self) -> Iterator[int]:
        """Give the moment for `reconcile`; the block asks the store and reconciles. It stays due if the block raises.

        Whatever makes it due during the block is for the next time: the store may have answered before.
        """
        rounds, self._rounds = self._rounds, 0
        try:
            yield self.moment()
        except BaseException:
            self._rounds = max(self._rounds, rounds, 1)
            raise
        self._rounds = max(self._rounds, rounds - 1)
