"""What the provider remembers: its scripts, and the requests that it has seen."""

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from scripted.script import Script

# Requests. The oldest are forgotten, so that a benchmark of short requests does not fill the memory.
REMEMBERED = 50_000


class Meter(Protocol):
    """The part of a connection that knows how much of what was written has arrived."""

    def acked(self) -> int:
        """Bytes since the connection began that the peer's kernel has acknowledged."""


@dataclass(slots=True)
class Seen:
    """One request and its answer so far. Times are in seconds of CLOCK_MONOTONIC, the same in all processes."""

    model: str
    call: int
    number: int  # counted over all models
    headers: dict[str, str]
    body: Any
    connection: int
    meter: Meter
    base: int  # bytes that this connection had written before
    started_at: float = field(default_factory=time.monotonic)
    status: int | None = None
    content_chunks: int = 0
    bytes_written: int = 0
    open: bool = True
    finished: bool = False
    at_gate: bool = False
    first_token_at: float | None = None
    closed_by_client_at: float | None = None

    def report(self, began: float) -> dict[str, Any]:
        """Give the request as JSON, with what the client of an open answer has acknowledged by now."""
        return {
            "model": self.model,
            "call": self.call,
            "time": self.started_at - began,
            "headers": self.headers,
            "body": self.body,
            "connection": self.connection,
            "status": self.status,
            "content_chunks": self.content_chunks,
            "bytes_written": self.bytes_written,
            "bytes_acked": min(self.bytes_written, max(0, self.meter.acked() - self.base)),
            "open": self.open,
            "finished": self.finished,
            "at_gate": self.at_gate,
            "started_at": self.started_at,
            "first_token_at": self.first_token_at,
            "closed_by_client_at": self.closed_by_client_at,
        }


class Memory:
    """All scripts by model, and all requests in order."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self.requests = 0
        self._scripts: dict[str, list[Script]] = {}
        self._calls: dict[str, int] = {}
        # By model. What a gate was told before its stream has come to it counts as well.
        self.gates: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))

    @property
    def models(self) -> list[str]:
        """The names that have a script; any other name is answered as well."""
        return list(self._scripts)

    def write(self, model: str, calls: list[Script]) -> None:
        """Replace the scripts of a model, count its calls from 0 again, and close its gates."""
        self.gates.pop(model, None)
        self._scripts[model] = calls
        self._calls[model] = 0

    def next_call(self, model: str) -> tuple[int, Script]:
        """Give the index of this call of the model, and its script."""
        call = self._calls.get(model, 0)
        self._calls[model] = call + 1
        self.requests += 1
        scripts = self._scripts.get(model)
        return call, scripts[min(call, len(scripts) - 1)] if scripts else Script()
