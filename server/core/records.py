"""What a log holds: records, the facts that a stream begins and ends with, and the runs of records that are lost."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, overload

import orjson

from server.core.errors import StoreError
from server.core.lifecycle import State

Policy = Literal["cancel", "continue"]

# In `Log.target`, between the name of a target and its id of an answer that it goes on with by itself. No name of a
# model has a control character.
RUNNING = "\t"
STREAM_PREFIX = "strm_"  # of the id of a stream; what follows is random
WHOLE = "response"  # the kind of a record that holds the JSON of an answer that was not streamed


class Record(NamedTuple):
    """One entry of a log. Its number (`seq`, from 1) is its position. `data` is what follows `data: ` on the wire."""

    kind: str
    data: bytes


class Tokens(Sequence[Record]):
    """Records of one kind that differ only in a text: each has the data `before + text + after`.

    Nearly all records of a stream are such tokens. What handles them as they are touches a tenth of the memory.
    """

    __slots__ = ("after", "before", "kind", "texts")

    def __init__(self, kind: str, before: bytes, texts: Sequence[bytes], after: bytes) -> None:
        self.kind = kind
        self.before = before
        self.texts = texts
        self.after = after

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Record]:
        kind, before, after = self.kind, self.before, self.after
        return iter([Record(kind, before + text + after) for text in self.texts])

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Tokens": ...
    def __getitem__(self, index: int | slice) -> "Record | Tokens":
        if isinstance(index, slice):
            return Tokens(self.kind, self.before, self.texts[index], self.after)
        return Record(self.kind, self.before + self.texts[index] + self.after)


def size_of(records: Sequence[Record]) -> int:
    """Return the bytes of all data of records."""
    if isinstance(records, Tokens):
        texts, around = records.texts, len(records.before) + len(records.after)
        return len(texts[0]) + around if len(texts) == 1 else sum(map(len, texts)) + len(texts) * around
    return sum([len(data) for _, data in records])


def target_of(noted: str) -> str:
    """Return the name of the target in a `Log.target`."""
    return noted.partition(RUNNING)[0]


TOKEN_MARK = re.compile(r"\.[0-9a-f]{16}\Z")  # ends the name of an owner


def owned_by(name: str, sha256: str) -> str:
    """Return the owner for a key's name and the SHA-256 of its token, in lower-case hexadecimal."""
    return f"{name}.{sha256[:16]}"


def key_name(owner: str) -> str:
    """Return the name of an owner's key."""
    return TOKEN_MARK.sub("", owner)


@dataclass(frozen=True, slots=True)
class Beginning:
    """The facts that a stream starts with. `created` is in seconds since the epoch, `body` the client's request."""

    id: str
    owner: str
    dialect: str
    model: str
    created: float
    body: bytes
    stream: bool = True
    policy: Policy = "cancel"
    idempotency: tuple[str, str] | None = None  # the client's key, the digest of its body
    request_id: str = ""  # of the request that began it
    choices: int = 0  # the `n` of the request; 0: an older version wrote the log
    asks_usage: bool | None = None  # the request asks for the usage chunk; None: as above
    changed: bool = False  # `body` has two requests: as the client sent it, and the chat request that goes upstream
    retention: float | None = None  # seconds that the log is kept after its ending; None: as long as the settings say
    detached: bool = False  # it needs no reader: without one it goes on to its end

    @property
    def key_name(self) -> str:
        """The name of the key that began the stream, for log lines. An older version stored it as the owner."""
        return key_name(self.owner)

    def kept_for(self, seconds: float) -> float:
        """Return how long the log is kept after its ending, if it is `seconds` by the settings."""
        return seconds if self.retention is None else self.retention


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended. It is written with the last record, in one append. `at` is in seconds since the epoch."""

    state: State
    reason: str
    at: float
    target: str
    tokens: int = 0
    recoveries: int = 0
    ttft_ms: float | None = None
    usage: dict[str, Any] | None = None
    billed: dict[str, Any] | None = None  # over all attempts, for the log line
    error: dict[str, Any] | None = None
    status: int = 200  # the HTTP status, for a client whose response has not opened
    retry_after: float | None = None  # seconds, for the same client


# --- the form in a durable store: JSON objects, to which a newer version may add fields ------------------------------


def dump_beginning(beginning: Beginning) -> bytes:
    """Return all facts but the body as JSON. The store keeps the body separately, as it is. Raises StoreError."""
    facts = {fact.name: getattr(beginning, fact.name) for fact in fields(Beginning) if fact.name != "body"}
    return _dump(facts, beginning.id)


def load_beginning(facts: bytes, body: bytes) -> Beginning:
    """Return the beginning that `dump_beginning` wrote. Fields of a newer version are ignored."""
    known = _known(Beginning, facts)
    key = known.get("idempotency")
    return Beginning(**{**known, "body": body, "idempotency": (key[0], key[1]) if key else None})


def dump_ending(ending: Ending) -> bytes:
    """Return all facts as JSON. Raises StoreError if one cannot be written, such as a number of more than 64 bits."""
    return _dump(ending, "an ending")


def load_ending(facts: bytes) -> Ending:
    """Return the ending that `dump_ending` wrote. Fields of a newer version are ignored."""
    known = _known(Ending, facts)
    return Ending(**{**known, "state": State(known["state"])})


def writable(text: str) -> str:
    """Return a name as every store can hold it: NUL and a surrogate without its other half become escapes."""
    text = text.replace("\0", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _dump(facts: object, what: str) -> bytes:
    try:
        return orjson.dumps(facts)
    except orjson.JSONEncodeError as error:
        raise StoreError(f"{what} cannot be written: {error}") from error


def _known(kind: type, facts: bytes) -> dict[str, Any]:
    names = {fact.name for fact in fields(kind)}
    return {name: value for name, value in orjson.loads(facts).items() if name in names}


# --- records that a store has lost ------------------------------------------------------------------------------------

Lost = Sequence[tuple[int, int]]  # runs of record numbers: the first and the last of each


def resume_at(lost: Lost, after: int) -> int:
    """Return the cursor to read on from: `after`, or the last lost number of the run that follows it."""
    for first, last in lost:
        if first <= after + 1 <= last:
            after = last
    return after


def upper_bound(lost: Lost, after: int, tail: int) -> int:
    """Return the last number that can be read after `after` without crossing lost records."""
    return min([tail, *(first - 1 for first, _ in lost if first > after)])
