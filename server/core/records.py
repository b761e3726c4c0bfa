"""What a log holds: records, the facts that a stream starts with, and the facts that it ends with."""

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import orjson

from server.core.lifecycle import State

Policy = Literal["cancel", "continue"]

WHOLE = "response"  # the kind of the record that is the JSON of an answer that was not streamed


class Record(NamedTuple):
    """One entry of a log; its number (`seq`, from 1) is its place. `data` is what follows `data: ` on the wire."""

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
    idempotency: tuple[str, str] | None = None  # the client's key, the digest of the body it came with
    request_id: str = ""  # of the request that began it


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended; written with its last record, in one append. Times are in seconds since the epoch."""

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
    status: int = 200  # what a client gets that was still waiting for the response to open
    retry_after: float | None = None  # seconds, for the same client


# --- how a durable store keeps them: JSON objects that a newer version may add fields to -----------------------------


def dump_beginning(beginning: Beginning) -> bytes:
    """Return everything but the body, which is kept as it is beside it."""
    return orjson.dumps({one.name: getattr(beginning, one.name) for one in fields(Beginning) if one.name != "body"})


def load_beginning(facts: bytes, body: bytes) -> Beginning:
    """Return what `dump_beginning` was given; fields of a newer version are passed over."""
    known = _known(Beginning, facts)
    key = known.get("idempotency")
    return Beginning(**{**known, "body": body, "idempotency": (key[0], key[1]) if key else None})


def dump_ending(ending: Ending) -> bytes:
    """Return all of it."""
    return orjson.dumps(ending)


def load_ending(facts: bytes) -> Ending:
    """Return what `dump_ending` was given; fields of a newer version are passed over."""
    known = _known(Ending, facts)
    return Ending(**{**known, "state": State(known["state"])})


def _known(kind: type, facts: bytes) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in orjson.loads(facts).items() if name in names}
