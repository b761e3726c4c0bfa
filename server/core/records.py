"""What a log holds: records, the facts that a stream starts with, and the facts that it ends with."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from server.core.lifecycle import State

Form = Literal["openai", "native"]
Policy = Literal["cancel", "continue"]

CHUNK = "chunk"  # kinds of an OpenAI-form log; a native-form log uses the names of its events
ERROR = "error"
DONE = "done"
WHOLE = "response"  # the JSON of a non-streaming answer
DONE_DATA = b"[DONE]"


class Record(NamedTuple):
    """One entry of a log; its number (`seq`, from 1) is its place. `data` is what follows `data: ` on the wire."""

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Birth:
    """The facts that a stream starts with. `created` is in seconds since the epoch, `body` the client's request."""

    id: str
    owner: str
    form: Form
    model: str
    created: float
    body: bytes
    stream: bool = True
    policy: Policy = "cancel"
    idempotency: tuple[str, str] | None = None  # the client's key, the digest of the body it came with


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
