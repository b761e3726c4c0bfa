"""What a log holds: records, the facts that a stream begins and ends with, and the runs of records that are lost."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import orjson

from server.core.lifecycle import State

Policy = Literal["cancel", "continue"]

WHOLE = "response"  # the kind of a record that holds the JSON of an answer that was not streamed


class Record(NamedTuple):
    """One entry of a log. Its number (`seq`, from 1) is its position. `data` is what follows `data: ` on the wire."""

    kind: str
    data: bytes


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
    """Return all facts but the body as JSON. The store keeps the body separately, as it is."""
    return orjson.dumps({fact.name: getattr(beginning, fact.name) for fact in fields(Beginning) if fact.name != "body"})


def load_beginning(facts: bytes, body: bytes) -> Beginning:
    """Return the beginning that `dump_beginning` wrote. Fields of a newer version are ignored."""
    known = _known(Beginning, facts)
    key = known.get("idempotency")
    return Beginning(**{**known, "body": body, "idempotency": (key[0], key[1]) if key else None})


def dump_ending(ending: Ending) -> bytes:
    """Return all facts as JSON."""
    return orjson.dumps(ending)


def load_ending(facts: bytes) -> Ending:
    """Return the ending that `dump_ending` wrote. Fields of a newer version are ignored."""
    known = _known(Ending, facts)
    return Ending(**{**known, "state": State(known["state"])})


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
