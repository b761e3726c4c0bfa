"""The Protocols of the extension points: a store, a recovery strategy, a tool. Built-ins register the same way."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.core.errors import Kind
from server.core.records import Beginning, Ending, Record

# Called with records that may be shown now, and with the log's `tail` and `size` up to and with them.
Shown = Callable[[Sequence[Record], int, int], None]


class PendingAppend(Protocol):
    """Records that are on their way into a log."""

    @property
    def error(self) -> Exception | None:
        """Why they are not in the log, or may not be. None: they are, or it is not decided yet."""

    async def decided(self) -> Any:
        """Return when the records are in the log. Raises Fenced and StoreError, as `Log.append` does."""


class Log(Protocol):
    """One stream's records, append-only, numbered from 1.

    `tail` is the number of the last record that may be shown, `size` the bytes of all data so far. `lost` are runs of
    record numbers (first, last) that the store once had and no longer has: nearly always none. `ending` is what the
    last append was given. `target` names the upstream target that answers, and the answer that it goes on with by
    itself (`records.target_of` gives the name alone); a new value is stored with the next append.
    """

    beginning: Beginning
    tail: int
    size: int
    lost: Sequence[tuple[int, int]]
    ending: Ending | None
    last_activity: float
    target: str

    def put(self, records: Sequence[Record], shown: Shown) -> PendingAppend | None:
        """Add records without waiting. This is the path of every token, so it is no coroutine.

        Returns None if the records are in the log already: the caller may show them. A log that commits later returns
        the pending append. It calls `shown(records, tail, size)` in the event loop when the records may be shown, but
        never before `put` has returned. If the records cannot be added, `shown` is not called. If nobody waits for
        `decided` then, no later append is made, and each raises why. Records are added in the order of the calls of
        `put` and `append`.

        Raises StoreError from a log that returns None: nothing was added.
        """

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records, all or none. They may be shown on return. With `ending`, the last one is the ending record.

        Appends that wait at the same time are added in the order of their calls. A call that is cancelled returns when
        it is decided: if it was made, `tail` and `ending` say so.

        Raises:
            Fenced: another instance has taken the stream over.
            StoreError: nothing was added. Or nobody knows, as the answer was lost: then this and every later append
                raises it, until the log is claimed again and has what is really there.

        """

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after number `after`: at least one if there is one, then as many as fit `max_bytes`.

        They follow each other without a hole. If record `after + 1` is in `lost`, nothing is returned. A log that has
        been deleted returns nothing, or raises Deleted.
        """

    async def offset(self, cursor: int) -> int:
        """Return the size of the data of records 1 to `cursor`, in bytes."""


class Store(Protocol):
    """All logs. One contract test suite (tests/support/contract.py) runs over every implementation.

    A durable store is shared by instances. Each log has one instance at a time that may append: the one that created
    it, until another claims it. Every claim begins a new epoch, and an append of an older one is Fenced. If `create`
    or `claim` raises, or its caller is cancelled, what may have been made all the same is given back with the next
    `renew`.

    There is one object per log: all methods that return a log return the same one, brought up to date.
    """

    durable: bool  # whether logs outlive the process, and can be claimed and followed

    async def open(self) -> None:
        """Make the store ready. Raises StoreError with one clear sentence."""

    async def close(self) -> None:
        """Flush and release everything: what was held here can be claimed at once."""

    async def problem(self) -> str | None:
        """Return why the store cannot be used now, or None."""

    async def create(self, beginning: Beginning) -> Log:
        """Begin a log, or return the one that has `beginning.idempotency` already (compare the `beginning.id`)."""

    async def find(self, stream_id: str) -> Log | None:
        """Return a log that is live or retained, as it is now."""

    async def release_key(self, log: Log) -> None:
        """Forget the idempotency key of a stream that failed before it opened."""

    def logs(self) -> AsyncIterator[Log]:
        """Yield every log that is live or retained, oldest first."""

    async def delete(self, log: Log) -> bool:
        """Delete an ended log, its records and its idempotency key, for all instances.

        Returns False if it was not there any more, or has not ended. Raises StoreError.
        """

    async def sweep(self, now: float) -> None:
        """Delete logs whose retention is over, and the oldest ended ones while all together are larger than the bound.

        The retention of a log is its beginning's, or else that of the settings. `now` is in seconds since the epoch.
        """

    # --- a durable store's: logs that other instances write -----------------------------------------------------

    async def claim(self, log: Log, *, force: bool = False) -> bool:
        """Take a log over, in a new epoch. False if it has ended or (unless `force`) another instance holds it."""

    async def renew(self) -> Sequence[Log]:
        """Extend the lease of this instance; return the logs that were held here and have been claimed elsewhere."""

    async def refresh(self, log: Log) -> None:
        """Bring a log that another instance holds up to date. Raises StoreError, also if the log has been deleted."""

    async def follow(self, log: Log) -> None:
        """Wait until such a log has something new, for half a second at most, and bring it up to date."""

    async def followed(self, log: Log) -> bool:
        """Whether another instance has followed this log within the time of a lease. If so, it has readers there."""

    def orphans(self) -> AsyncIterator[Log]:
        """Yield the logs without an ending whose holder's lease has run out."""


@dataclass(frozen=True, slots=True)
class TargetView:
    """What a strategy knows of one target."""

    name: str
    attempts: int  # made in this stream
    continuation: str  # its `continuation` in the configuration; "none": it cannot continue a text
    available: bool  # its circuit lets a request through
    last: Kind | None = None  # its last failure in this stream
    wait: float | None = None  # seconds left of its `Retry-After`; None: it sent none


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the client has: counts, and the facts that rule out some ways of recovery."""

    tokens: int = 0
    characters: int = 0
    reasoning: bool = False
    calls: bool = False
    structured: bool = False  # a response format or guided decoding was asked for
    choices: int = 1
    tools: bool = False  # the request offers tools
    others: int = 0  # what came beside texts and calls: images, annotations, …


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, and all that a strategy may consider. Times are in seconds."""

    kind: Kind
    same: bool  # another attempt at this target may help
    other: bool  # another target may help
    retry_after: float | None
    target: int  # index in `targets` of the one that failed
    targets: tuple[TargetView, ...]
    delivered: Delivered
    recoveries: int
    diverged: bool  # a restart gave another text than the delivered one
    time_left: float
    client_present: bool
    max_retries: int
    max_recoveries: int
    backoff: float
    jitter: float  # random, 0 to 1; the relay draws it, so that a decision is a pure function
    takeover: bool = False  # no attempt of this relay failed: an earlier relay of the stream is gone
    resumable: bool = False  # the failed target goes on with its answer, and the rest of it can be asked for


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask the same target again, after `wait` seconds. Only before content."""

    wait: float


@dataclass(frozen=True, slots=True)
class Restart:
    """Ask target number `target` from the start, after `wait` seconds.

    Its answer must repeat the delivered text. That part is compared, and not sent to the client again.
    """

    target: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Resume:
    """Ask the same target for the rest of its answer, after `wait` seconds. Only if the failure is `resumable`."""

    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Continue:
    """Ask target number `target` to go on from the delivered text, after `wait` seconds."""

    target: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the stream with its first error."""


Decision = Retry | Resume | Restart | Continue | GiveUp


class Strategy(Protocol):
    """Failure in, decision out. It is pure, so that a table can test it."""

    def decide(self, failure: Failure) -> Decision:
        """Return what to do next."""
