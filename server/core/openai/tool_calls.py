"""Assembling tool calls from the pieces that a stream sends (OpenAI's API reference, chat completion chunks).

Several calls may be under way at once: a piece belongs to the call of its `index`; id and name come once, the
arguments in pieces. What providers do beside that is taken too: no `index` at all, one `index` for several calls with
different ids, arguments as an object, no id, and the `function_call` of before 2023.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

LEGACY = -1  # the index of a `function_call`, of which there is one at most
WHOLE_REASONS = frozenset({"tool_calls", "function_call", "stop"})  # finish reasons of a model that said all it wanted


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as it came out; `raw` is the text of its arguments, `arguments` the same parsed."""

    id: str
    name: str
    raw: str
    arguments: Any = None
    error: str | None = None  # why there are no parsed arguments
    incomplete: bool = False
    server: bool = False  # the server runs it, not the client


@dataclass(slots=True)
class _Open:
    """One call under way, of a provider's `index`."""

    index: int
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)

    def add(self, piece: dict[str, Any]) -> int:
        """Add one piece; return the characters that it brought."""
        self.id = self.id or _text(piece.get("id"))
        function = piece.get("function")
        if not isinstance(function, dict):
            return 0
        self.name = self.name or _text(function.get("name"))
        given = function.get("arguments")
        text = orjson.dumps(given).decode() if isinstance(given, dict) else _text(given)
        self.parts.append(text)
        return len(text)


class ToolCalls:
    """The calls of one turn. `size` counts the characters of all arguments so far, for the caller's bound.

    `turn` (from 0) makes the ids of calls that came without one differ between turns.
    """

    def __init__(self, turn: int = 0) -> None:
        self.size = 0
        self._turn = turn
        self._open: list[_Open] = []
        self._latest: dict[int, _Open] = {}  # by index
        self._last = 0  # the index of the piece before

    def feed(self, delta: dict[str, Any]) -> None:
        """Take the pieces of one delta."""
        pieces = delta.get("tool_calls")
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                index = piece.get("index")
                self._last = index if isinstance(index, int) else self._last
                self.size += self._call(self._last, _text(piece.get("id"))).add(piece)
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            self.size += self._call(LEGACY, "").add({"function": legacy})

    def _call(self, index: int, identity: str) -> _Open:
        """Return the call that a piece belongs to."""
        call = self._latest.get(index)
        # Some providers give every call the index 0 (or none): another id is another call.
        if call is None or (identity and call.id not in ("", identity)):
            call = self._latest[index] = _Open(index)
            self._open.append(call)
        return call

    def take(self, finish_reason: str | None) -> list[ToolCall]:
        """Return all calls in order, and begin anew. `finish_reason` None: the turn broke off."""
        whole = finish_reason in WHOLE_REASONS
        calls: list[ToolCall] = []
        seen: set[str] = set()
        for place, found in enumerate(sorted(self._open, key=lambda call: call.index)):
            identity = found.id or f"call_{self._turn}_{place}"
            while identity in seen:  # two calls of one id could not be told apart by their results
                identity += "_"
            seen.add(identity)
            calls.append(_parsed(identity, found, whole=whole))
        self._open, self._latest, self.size = [], {}, 0
        return calls


def _parsed(identity: str, found: _Open, *, whole: bool) -> ToolCall:
    raw = "".join(found.parts)
    try:
        # A tool without parameters is often called with no arguments at all.
        arguments = orjson.loads(raw) if raw.strip() or not whole else {}
    except orjson.JSONDecodeError as error:
        words = f"The arguments are not JSON: {error}." if whole else "The arguments broke off."
        return ToolCall(identity, found.name, raw, error=words, incomplete=not whole)
    # A closed object cannot be the beginning of a longer one, so it is whole even where the stream broke off after it.
    if whole or (isinstance(arguments, dict) and found.name):
        return ToolCall(identity, found.name, raw, arguments)
    return ToolCall(identity, found.name, raw, error="The arguments broke off.", incomplete=True)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
