"""The table of `sluiceway streams`: pure, from two looks at `GET /v1/streams` to lines of text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIVE = frozenset({"starting", "streaming", "recovering"})
HEAD = ("STREAM", "MODEL", "STATE", "AGE", "TOKENS/S", "LAG", "READERS", "RECOVERIES", "NOTE")
RIGHT = frozenset({"AGE", "TOKENS/S", "LAG", "READERS", "RECOVERIES"})
ELASTIC = ("NOTE", "MODEL")  # cut where there is no room for all, the last one first; an id is to be copied, so never
NARROW = 15  # characters that are left of them: "client stalls:…"
SPARE = ("RECOVERIES", "READERS", "MODEL", "LAG", "AGE")  # left out, in this order, where even that is too much
GAP = "  "
QUIET = 5.0  # seconds without a token that are worth a word


@dataclass(frozen=True, slots=True)
class Look:
    """What `GET /v1/streams` said at a time, in seconds since the epoch."""

    at: float
    streams: Sequence[Mapping[str, Any]]

    @classmethod
    def now(cls, streams: Sequence[Mapping[str, Any]]) -> "Look":
        """Return what was listed just now."""
        return cls(time.time(), streams)


def table(look: Look, before: Look | None = None, *, ended: bool = False, room: int | None = None) -> list[str]:
    """Return the lines of the table, the oldest live stream first; `before` gives the rates, else the stream's age.

    `room`: the characters of a line; None: as many as it takes.
    """
    earlier = {one["id"]: one["records"] for one in before.streams} if before else {}
    rows: list[tuple[str, ...]] = [HEAD]
    for one in look.streams:
        if one["state"] in LIVE or ended:
            span = look.at - before.at if before and one["id"] in earlier else look.at - one["created"]
            rate = (one["records"] - earlier.get(one["id"], 0)) / max(span, 0.001)
            rows.append(_row(one, rate, look.at))
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
    """Return the columns that fit into a line, with their widths."""
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


def _row(one: Mapping[str, Any], rate: float, now: float) -> tuple[str, ...]:
    live = one["state"] in LIVE
    return (
        one["id"],
        one["model"],
        one["state"],
        _seconds(now - one["created"]),
        f"{rate:.1f}" if live else "",
        _bytes(one["lag"]) if live else "",
        str(one["readers"]),
        str(one["recoveries"] or ""),
        _note(one, now) if live else "",
    )


def _note(one: Mapping[str, Any], now: float) -> str:
    """Say who is stalling, if anyone is."""
    quiet = now - one["last_activity"]
    if one["paused"]:
        return "client stalls: upstream held back" if one["readers"] else "held until its client is back"
    if not one["readers"]:
        return "no reader"
    if one["state"] == "streaming" and quiet > QUIET:
        return f"upstream quiet for {_seconds(quiet)}"
    return ""


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 3600 else f"{value / 3600:.1f} h"


def _bytes(value: int) -> str:
    return f"{value} B" if value < 1024 else f"{value / 1024:.1f} KB"
