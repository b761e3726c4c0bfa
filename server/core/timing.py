"""When the phases of one attempt happened. All times are from time.monotonic(), in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Phases:
    """Filled in during an attempt. A phase that did not happen (a reused connection, a cached name) is None."""

    started: float
    received: float | None = None  # the client's whole request; only in the first attempt for it
    dns: float | None = None  # durations
    connect: float | None = None
    tls: float | None = None
    waited: float = 0.0  # for a connection, no matter which attempt opened it
    no_socket: int | None = None  # the errno of the last socket that the gateway itself could not make
    connecting: float | None = None  # points in time from here on: the first socket began to connect
    sent: float | None = None
    headers: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    request_id: str | None = None  # the upstream's own id of the request, by which its support finds these phases
    passed_on: Mapping[str, str] = field(default_factory=dict)  # headers of its answer that the client gets

    def connected(self, at: float) -> None:
        """Note that a connection is ready. The time for TCP is without the time for TLS."""
        if self.connecting is not None:
            self.connect = at - self.connecting - (self.tls or 0.0)

    def joined(self, connection: "Phases", waited: float) -> None:
        """Copy the phases of a connection that was begun before this attempt, which then `waited` seconds for it."""
        self.dns, self.connecting = connection.dns, connection.connecting
        self.connect, self.tls = connection.connect, connection.tls
        self.waited += waited

    def durations(self) -> dict[str, float]:
        """Return seconds by the phase names of `sluiceway_upstream_phase_seconds`."""
        durations = {"dns": self.dns, "connect": self.connect, "tls": self.tls}
        if self.sent is not None and self.headers is not None:
            durations["headers"] = self.headers - self.sent
        if self.headers is not None and self.first_token is not None:
            durations["first_token"] = self.first_token - self.headers
        return {name: seconds for name, seconds in durations.items() if seconds is not None}

    def spans(self) -> dict[str, tuple[float, float]]:
        """Return when each phase, and the tokens, began and ended: points in time."""
        spans: dict[str, tuple[float | None, float | None]] = {
            "headers": (self.sent, self.headers),
            "first_token": (self.headers, self.first_token),
            "tokens": (self.first_token, self.last_token),
        }
        if self.connecting is not None and self.connect is not None:
            connected = self.connecting + self.connect
            spans["connect"] = (self.connecting, connected)
            if self.dns is not None:
                spans["dns"] = (self.connecting - self.dns, self.connecting)
            if self.tls is not None:
                spans["tls"] = (connected, connected + self.tls)
        return {name: (start, end) for name, (start, end) in spans.items() if start is not None and end is not None}

    def milliseconds(self) -> dict[str, float]:
        """Return the phases and the gateway's own time as a log line shows them."""
        phases = self.durations()
        if self.overhead is not None:
            phases["overhead"] = self.overhead
        return {name: round(seconds * 1000, 3) for name, seconds in phases.items()}

    @property
    def overhead(self) -> float | None:
        """Seconds that the gateway itself took from the client's whole request to its own; None if unknown."""
        if self.received is None or self.sent is None:
            return None
        return max(0.0, self.sent - self.received - self.waited)
