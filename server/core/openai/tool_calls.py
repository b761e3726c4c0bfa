"""Assembles tool calls from the pieces of a stream (OpenAI's API reference, chat completion chunks).

A stream may send several calls at once. A piece belongs to the call of its `index`. The id and the name come once, the
arguments in pieces. Some providers differ, and these forms work too: no `index` at all, one `index` for several calls
with different ids, arguments as an object, no id, and the `function_call` of before 2023.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from server.core.shape import shape

LEGACY = -1  # the index of a `function_call`; a turn has at most one
WHOLE_REASONS = frozenset({"tool_calls", "function_call", "stop"})  # finish reasons after which no call is cut short
MAX_CALL_DEPTH = 100  # levels of arguments: orjson reads 1,024, and writes 254 with the event around them


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One assembled call. `raw` is the text of its arguments, `arguments` the same parsed."""

    id: str
    name: str
    raw: str
    arguments: Any = None
    error: str | None = None  # why there are no parsed arguments
    incomplete: bool = False
    server: bool = False  # the server runs it, not the client


@dataclass(slots=True)
class _PartialCall:
    """One call of which more pieces may come. `index` is the provider's."""

    index: int
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)

    def add(self, piece: dict[str, Any]) -> int:
        """Add one piece; return how many characters of arguments it has."""
        self.id = self.id or _text(piece.get("id"))
        function = piece.get("function")
        if not isinstance(function, dict):
            return 0
        self.name = self.name or _text(function.get("name"))
        arguments = function.get("arguments")
        text = _written(arguments) if isinstance(arguments, dict) else _text(arguments)
        self.parts.append(text)
        return len(text)


class ToolCalls:
    """The calls of one turn. `size` counts the characters of all their arguments so far, for the caller's bound.

    A call without an id gets one that has the number `turn` (from 0), so that ids differ between turns.
    """

    def __init__(self, turn: int = 0) -> None:
        self.size = 0
        self._turn = turn
        self._partial: list[_PartialCall] = []
        self._latest: dict[int, _PartialCall] = {}  # by index
        self._last = 0  # the index of the previous piece

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

    def _call(self, index: int, identity: str) -> _PartialCall:
        """Return the call that a piece belongs to."""
        call = self._latest.get(index)
        # Some providers give every call the index 0 (or none). A new id then begins a new call.
        if call is None or (identity and call.id not in ("", identity)):
            call = self._latest[index] = _PartialCall(index)
            self._partial.append(call)
        return call

    def take(self, finish_reason: str | None) -> list[ToolCall]:
        """Return all calls in order, and forget them. `finish_reason` None: the turn broke off."""
        whole = finish_reason in WHOLE_REASONS
        calls: list[ToolCall] = []
        seen: set[str] = set()
        for position, partial in enumerate(sorted(self._partial, key=lambda call: call.index)):
            identity = partial.id or f"call_{self._turn}_{position}"
            while identity in seen:  # results name their call by its id, so every id must be unique
                identity += "_"
            seen.add(identity)
            calls.append(_parsed(identity, partial, whole=whole))
        self._partial, self._latest, self.size = [], {}, 0
        return calls


def _parsed(identity: str, partial: _PartialCall, *, whole: bool) -> ToolCall:
    raw = "".join(partial.parts)
    try:
        # A tool without parameters is often called with no arguments at all.
        arguments = orjson.loads(raw) if raw.strip() or not whole else {}
        # What is nested deeper can be read, but neither logged nor sent to the model again.
        if shape(raw.encode("utf-8", "surrogatepass"), most=len(raw))[1] > MAX_CALL_DEPTH:
            words = f"The arguments are nested more than {MAX_CALL_DEPTH} levels deep."
            return ToolCall(identity, partial.name, raw, error=words, incomplete=not whole)
    except orjson.JSONDecodeError as error:
        words = f"The arguments are not JSON: {error}." if whole else "The arguments broke off."
        return ToolCall(identity, partial.name, raw, error=words, incomplete=not whole)
    # A closed object cannot be the beginning of a longer one. So it is whole, even if the stream broke off after it.
    if whole or (isinstance(arguments, dict) and partial.name):
        return ToolCall(identity, partial.name, raw, arguments)
    return ToolCall(identity, partial.name, raw, error="The arguments broke off.", incomplete=True)


def _written(arguments: dict[str, Any]) -> str:
    """Return arguments that came as an object. Those that cannot be written become a text that is no JSON."""
    try:
        return orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError:
        return "(nested too deeply)"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
