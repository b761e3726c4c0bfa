"""The table of `sluiceway streams`: two looks at `GET /v1/streams` become lines of text. No I/O."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIVE = frozenset({"starting", "streaming", "recovering"})
HEAD = ("STREAM", "MODEL", "STATE", "AGE", "TOKENS/S", "LAG", "READERS", "RECOVERIES", "NOTE")
RIGHT = frozenset({"AGE", "TOKENS/S", "LAG", "READERS", "RECOVERIES"})
# If a line is too narrow, these columns are cut, the last one first. An id stays whole, so that it can be copied.
ELASTIC = ("NOTE", "MODEL")
NARROW = 15  # characters that a cut column keeps: "client stalls:…"
SPARE = ("RECOVERIES", "READERS", "MODEL", "LAG", "AGE")  # left out in this order if cutting is not enough
GAP = "  "
QUIET = 5.0  # seconds without a token until the table says so


@dataclass(frozen=True, slots=True)
class Look:
    """The answer of `GET /v1/streams`, and when it came (`at`, in seconds since the epoch)."""

    at: float
    streams: Sequence[Mapping[str, Any]]

    @classmethod
    def now(cls, streams: Sequence[Mapping[str, Any]]) -> "Look":
        """Return a look that was taken just now."""
        return cls(time.time(), streams)


def table(look: Look, before: Look | None = None, *, ended: bool = False, room: int | None = None) -> list[str]:
    """Return the lines of the table, the oldest live stream first.

    Rates are measured since the look `before`, or over the stream's whole age without one. `ended` includes ended
    streams. `room` is the number of characters in a line; None means no limit.
    """
    earlier = {stream["id"]: stream["records"] for stream in before.streams} if before else {}
    rows: list[tuple[str, ...]] = [HEAD]
    for stream in look.streams:
        if stream["state"] in LIVE or ended:
            span = look.at - before.at if before and stream["id"] in earlier else look.at - stream["created"]
            rate = (stream["records"] - earlier.get(stream["id"], 0)) / max(span, 0.001)
            rows.append(_row(stream, rate, look.at))
    widths = {name: max(map(len, column)) for name, column in zip(HEAD, zip(*rows, strict=True), strict=True)}
    if room is not None:
        widths = _fitted(widths, room)
    lines = []
    for row in rows:
        cells = [_cell(name, cell, widths[name]) for name, cell in zip(HEAD, row, strict=True) if name in widths]
        lines.append(GAP.join(cells).rstrip())
    if len(rows) == 1:
        lines.append("no live streams")
    return lines


def _fitted(widths: Mapping[str, int], room: int) -> dict[str, int]:
    """Return the columns that fit into `room` characters, with their widths."""
    fitted = {name: min(width, NARROW) if name in ELASTIC else width for name, width in widths.items()}

    def left() -> int:
        return room - sum(fitted.values()) - len(GAP) * (len(fitted) - 1)

    for name in SPARE:
        if left() < 0:
            del fitted[name]
    for name in ELASTIC:
        if name in fitted:
            fitted[name] = min(widths[name], fitted[name] + max(0, left()))
    return fitted


def _cell(name: str, text: str, width: int) -> str:
    if len(text) > width:
        return text[: width - 1] + "…"
    return text.rjust(width) if name in RIGHT else text.ljust(width)


def _row(stream: Mapping[str, Any], rate: float, now: float) -> tuple[str, ...]:
    live = stream["state"] in LIVE
    return (
        stream["id"],
        stream["model"],
        stream["state"],
        _seconds(now - stream["created"]),
        f"{rate:.1f}" if live else "",
        _bytes(stream["lag"]) if live else "",
        str(stream["readers"]),
        str(stream["recoveries"] or ""),
        _note(stream, now) if live else "",
    )


def _note(stream: Mapping[str, Any], now: float) -> str:
    """Say who stalls the stream, if anyone does."""
    quiet = now - stream["last_activity"]
    if stream["paused"]:
        return "client stalls: upstream held back" if stream["readers"] else "held until its client is back"
    if not stream["readers"]:
        return "no reader"
    if stream["state"] == "streaming" and quiet > QUIET:
        return f"upstream quiet for {_seconds(quiet)}"
    return ""


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 3600 else f"{value / 3600:.1f} h"


def _bytes(value: int) -> str:
    return f"{value} B" if value < 1024 else f"{value / 1024:.1f} KB"
