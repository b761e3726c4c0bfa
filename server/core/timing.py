"""When the phases of one attempt happened. All times are of time.monotonic(), in seconds."""

from dataclasses import dataclass


@dataclass(slots=True)
class Phases:
    """Filled in while an attempt goes on; None where a phase did not happen (a reused connection, a cached name)."""

    started: float
    dns: float | None = None  # durations
    connect: float | None = None
    tls: float | None = None
    sent: float | None = None  # points in time
    headers: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    finishing: bool = False  # has its finish reason, waits for usage and [DONE]

    def durations(self) -> dict[str, float]:
        """Return seconds by the phase names of `sluiceway_upstream_phase_seconds`."""
        found = {"dns": self.dns, "connect": self.connect, "tls": self.tls}
        if self.sent is not None and self.headers is not None:
            found["headers"] = self.headers - self.sent
        if self.headers is not None and self.first_token is not None:
            found["first_token"] = self.first_token - self.headers
        return {name: seconds for name, seconds in found.items() if seconds is not None}
