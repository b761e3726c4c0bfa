"""When the phases of one attempt happened. All times are of time.monotonic(), in seconds."""

from dataclasses import dataclass


@dataclass(slots=True)
class Phases:
    """Filled in while an attempt goes on; None where a phase did not happen (a reused connection, a cached name)."""

    started: float
    received: float | None = None  # the request that this is the first attempt for had come in whole
    dns: float | None = None  # durations
    connect: float | None = None
    tls: float | None = None
    waited: float = 0.0  # for a connection, whoever began it
    connecting: float | None = None  # points in time: the first socket began to connect
    sent: float | None = None
    headers: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    finishing: bool = False  # has its finish reason, waits for usage and [DONE]

    def connected(self, at: float) -> None:
        """Note that a connection is ready; what TLS has taken of the time is none of TCP's."""
        if self.connecting is not None:
            self.connect = at - self.connecting - (self.tls or 0.0)

    def joined(self, made: "Phases", waited: float) -> None:
        """Take over how a connection was made that was begun ahead of this attempt, which then waited for it."""
        self.dns, self.connecting, self.connect, self.tls = made.dns, made.connecting, made.connect, made.tls
        self.waited += waited

    def durations(self) -> dict[str, float]:
        """Return seconds by the phase names of `sluiceway_upstream_phase_seconds`."""
        found = {"dns": self.dns, "connect": self.connect, "tls": self.tls}
        if self.sent is not None and self.headers is not None:
            found["headers"] = self.headers - self.sent
        if self.headers is not None and self.first_token is not None:
            found["first_token"] = self.first_token - self.headers
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    def spans(self) -> dict[str, tuple[float, float]]:
        """Return when each phase began and ended, and when the tokens came: points in time."""
        found: dict[str, tuple[float | None, float | None]] = {
            "headers": (self.sent, self.headers),
            "first_token": (self.headers, self.first_token),
            "tokens": (self.first_token, self.last_token),
        }
        if self.connecting is not None and self.connect is not None:
            connected = self.connecting + self.connect
            found["connect"] = (self.connecting, connected)
            if self.dns is not None:
                found["dns"] = (self.connecting - self.dns, self.connecting)
            if self.tls is not None:
                found["tls"] = (connected, connected + self.tls)
        return {name: (begun, over) for name, (begun, over) in found.items() if begun is not None and over is not None}

    def milliseconds(self) -> dict[str, float]:
        """Return the phases and the gateway's own time as a log line shows them."""
        found = self.durations()
        if self.overhead is not None:
            found["overhead"] = self.overhead
        return {name: round(seconds * 1000, 3) for name, seconds in found.items()}

    @property
    def overhead(self) -> float | None:
        """Seconds that the gateway itself took from the whole request to the one that it sent; None where unknown."""
        if self.received is None or self.sent is None:
            return None
        return max(0.0, self.sent - self.received - self.waited)
