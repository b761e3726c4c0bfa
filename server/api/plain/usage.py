"""Finds the usage in an answer that passes: JSON, or the frames of a stream. Little of it is kept."""

import re
from json import JSONDecodeError, JSONDecoder
from typing import Any

from server.core.openai.usage import MAX_COUNT

KEPT = 16_384  # bytes of the beginning, and of the end: an answer has its usage before or behind its data
LOOKED_AT = 8  # places that say "usage", the last ones: to look at thousands takes a second
USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')
TYPES = frozenset({"application/json", "text/event-stream"})
DECODER = JSONDecoder()
# The names of a count, in OpenAI's older APIs and in its newer ones.
NAMES = {
    "prompt": ("prompt_tokens", "input_tokens"),
    "completion": ("completion_tokens", "output_tokens"),
    "cached": ("cached_tokens",),
    "reasoning": ("reasoning_tokens",),
}
DETAILS = {
    "cached": ("prompt_tokens_details", "input_tokens_details"),
    "reasoning": ("completion_tokens_details", "output_tokens_details"),
}


class UsageFinder:
    """Looks at an answer of some `Content-Type`, piece by piece."""

    def __init__(self, content_type: str) -> None:
        self._looks = content_type in TYPES
        self._first = bytearray()
        self._last = bytearray()

    def feed(self, data: bytes) -> None:
        """Look at a piece."""
        if not self._looks:
            return
        room = KEPT - len(self._first)
        self._first += data[:room]
        self._last += data[max(room, 0) :][-KEPT:]
        del self._last[:-KEPT]

    def tokens(self) -> dict[str, int] | None:
        """Return the tokens by kind, or None if the answer counts none. The last count of a stream is that of all."""
        for part in (self._last, self._first) if len(self._last) == KEPT else (self._first + self._last,):
            for found in reversed(list(USAGE.finditer(part))[-LOOKED_AT:]):
                if (tokens := tokens_by_kind(_object(part[found.end() :]))) is not None:
                    return tokens
        return None


def _object(text: bytearray) -> Any:
    """Return the JSON object that a text begins with, or None."""
    try:
        return DECODER.raw_decode(text.decode(errors="replace"))[0]
    except (JSONDecodeError, RecursionError):
        return None


def tokens_by_kind(usage: Any) -> dict[str, int] | None:
    """Return the tokens of a `usage` object by kind, or None if there is no count in it."""
    if not isinstance(usage, dict):
        return None
    tokens = {}
    for kind, names in NAMES.items():
        places = [usage.get(place) for place in DETAILS[kind]] if kind in DETAILS else [usage]
        counts = [place.get(name) for place in places if isinstance(place, dict) for name in names]
        tokens[kind] = next((min(count, MAX_COUNT) for count in counts if type(count) is int and count >= 0), None)
    if tokens["prompt"] is None and tokens["completion"] is None:
        total = usage.get("total_tokens")  # those who rank documents count nothing else
        if type(total) is not int or total < 0:
            return None
        tokens["prompt"] = min(total, MAX_COUNT)
    return {kind: count or 0 for kind, count in tokens.items()}
