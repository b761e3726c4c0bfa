"""Assembles tool calls from the pieces of a stream (OpenAI's API reference, chat completion chunks).

A stream may send several calls at once. By OpenAI's reference a piece belongs to the call of its `index`, the id and
the name come once, and the arguments come in pieces. Many upstreams differ: `tests/core/openai/test_tool_call_forms.py`
has a table of their forms, with sources. What decides, in this order: the index, the id, the name, and whether the
arguments so far are whole, because a whole call takes no more of them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, NamedTuple, Self

import orjson

from server.core.errors import StreamError
from server.core.shape import has_more_values
from server.core.wide_json import MAX_VALUES, dumps, paired

BROKE_OFF = "The arguments broke off."
LEGACY = -1  # the index of a `function_call`; a turn has at most one
MAX_CALLS = 256  # calls of one turn, and pieces of one delta: more would hold the event loop up
MAX_SIZE = 4 * 1024 * 1024  # characters of all partial calls: the log, and so its bound, does not have them yet
MAX_NAME = 256  # characters of a name that comes in pieces
MAX_CHECKED = 65_536  # characters of arguments up to which it is found out whether they are whole
MAX_CHECKS = 100  # of that kind in one turn; then, and past that size, the id decides alone


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


class _Piece(NamedTuple):
    """One piece of a call. `slot` is the index as the upstream gives it; None: it gives none."""

    slot: int | str | None
    id: str
    name: str
    text: str

    @classmethod
    def of(cls, piece: dict[str, Any]) -> Self:
        """Read one item of `tool_calls`. Some upstreams leave the `function` around name and arguments out."""
        function = piece.get("function") or piece.get("custom")
        if not isinstance(function, dict):
            function = piece
        arguments = function.get("arguments", function.get("input"))
        if arguments is not None and not isinstance(arguments, str):
            arguments = _json(arguments)
        return cls(_slot(piece.get("index")), _text(piece.get("id")), _text(function.get("name")), arguments or "")

    @property
    def size(self) -> int:
        return len(self.id) + len(self.name) + len(self.text)


@dataclass(slots=True, eq=False)
class PartialCall:
    """One call of which more pieces may come. `order` is its place among the calls of the turn."""

    order: int
    numbered: bool  # the upstream gave it an index
    id: str = ""
    name: str = ""
    size: int = 0  # characters of arguments
    last: str = ""  # the last of them that is no space
    arguments: StringIO = field(default_factory=StringIO)

    def add(self, piece: _Piece) -> None:
        """Take in one piece."""
        self.id = self.id or piece.id
        if piece.name.startswith(self.name):  # the first one, the same again, or all of it so far
            self.name = piece.name or self.name
        elif not self.size and len(self.name) < MAX_NAME:
            self.name += piece.name
        self.size += self.arguments.write(piece.text)
        self.last = piece.text.rstrip()[-1:] or self.last

    def text(self, start: int) -> str:
        """Return the arguments from a position on."""
        self.arguments.seek(start)
        return self.arguments.read()  # which leaves the position at the end, where the next piece is written


class ToolCalls:
    """The calls of one turn.

    A call without an id gets one that has the number `turn` (from 0), so that ids differ between turns.
    """

    def __init__(self, turn: int = 0) -> None:
        self._turn = turn
        self._size = 0
        self._checks = 0
        self._partial: list[PartialCall] = []
        self._latest: dict[int | str, PartialCall] = {}  # by slot
        self._by_id: dict[str, PartialCall] = {}
        self._last: PartialCall | None = None  # the call of the previous piece

    def feed(self, delta: dict[str, Any]) -> list[PartialCall]:
        """Take the pieces of one delta; return the call of each piece, in order.

        Raises:
            StreamError: there are too many calls, or all together are too large.

        """
        listed = delta.get("tool_calls")
        pieces = [piece for piece in listed if isinstance(piece, dict)] if isinstance(listed, list) else []
        if len(pieces) > MAX_CALLS:
            raise _too_many()
        calls = [
            self._take(_Piece.of(piece), position if len(pieces) > 1 else None) for position, piece in enumerate(pieces)
        ]
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            calls.append(self._take(_Piece.of({**legacy, "index": LEGACY}), None))
        return calls

    def _take(self, piece: _Piece, position: int | None) -> PartialCall:
        """Add a piece to its call, and return that. `position`: its place in a delta of several pieces."""
        self._size += piece.size
        if self._size > MAX_SIZE:
            raise StreamError("The tool calls of one turn are too large.", "stream_too_large", 502)
        # If there is no index, the pieces of one delta belong to different calls.
        slot = f"#{position or 0}" if piece.slot is None else piece.slot
        call = self._candidate(piece, slot, alone=position is None)
        if call is None or self._begins(piece, call):
            call = self._new_call(piece)
        self._latest[slot] = self._last = call
        call.numbered = call.numbered or piece.slot is not None
        call.add(piece)
        if call.id:
            self._by_id.setdefault(call.id, call)
        return call

    def _candidate(self, piece: _Piece, slot: int | str, *, alone: bool) -> PartialCall | None:
        """Return the call that a piece belongs to, unless it begins a new one."""
        known = self._by_id.get(piece.id)
        if piece.slot is None:
            return known or (self._last if alone else self._latest.get(slot))
        if slot in self._latest:
            return self._latest[slot]
        earlier = known or (self._last if alone else None)  # an upstream may give the index only from the second piece
        return earlier if earlier is not None and not earlier.numbered else None

    def _begins(self, piece: _Piece, call: PartialCall) -> bool:
        """Whether a piece begins a new call although it has the index of `call`, or none."""
        if piece.id and piece.id == call.id:
            return False
        another_id = bool(piece.id and call.id)
        if piece.name and call.name:
            if piece.name != call.name:
                # A name may come in pieces, which have one index and at most one id, before any argument.
                return another_id or call.size > 0 or piece.slot is None
            if another_id:  # a new call of the same tool, or an upstream that makes up an id for each piece
                return self._whole(call) is not False
        return (another_id or bool(piece.name)) and bool(piece.text.strip()) and self._whole(call) is True

    def _whole(self, call: PartialCall) -> bool | None:
        """Whether the arguments of a call are a closed JSON object. None: nobody knows."""
        if not call.size or call.size > MAX_CHECKED or self._checks == MAX_CHECKS:
            return None
        if call.last != "}":
            return False
        self._checks += 1
        try:
            orjson.loads(paired(call.arguments.getvalue()))
        except orjson.JSONDecodeError:
            return False
        return True

    def _new_call(self, piece: _Piece) -> PartialCall:
        if len(self._partial) == MAX_CALLS:
            raise _too_many()
        order = piece.slot if isinstance(piece.slot, int) else self._last.order if self._last else 0
        call = PartialCall(order, numbered=piece.slot is not None)
        self._partial.append(call)
        return call

    @property
    def partial(self) -> Sequence[PartialCall]:
        """The calls so far, in the order in which they have begun. Each may grow, and more may come."""
        return self._partial

    def take(self, *, whole: bool) -> list[ToolCall]:
        """Return all calls in order. `whole`: the turn has not been cut short."""
        calls: list[ToolCall] = []
        seen: set[str] = set()
        repeats: Counter[str] = Counter()
        for position, partial in enumerate(sorted(self._partial, key=lambda call: call.order)):
            if not partial.name and not partial.size:
                continue  # nothing but an empty piece, which some upstreams send between two calls
            identity = first = partial.id or f"call_{self._turn}_{position}"
            while identity in seen:  # results name their call by its id, so every id must be unique
                repeats[first] += 1
                identity = f"{first}_{repeats[first]}"
            seen.add(identity)
            calls.append(_parsed(identity, partial, whole=whole))
        return calls


def _parsed(identity: str, partial: PartialCall, *, whole: bool) -> ToolCall:
    raw = paired(partial.arguments.getvalue())
    try:
        # A tool without parameters is often called with no arguments at all.
        arguments = {} if whole and raw.strip() in ("", "null") else _loaded(raw)
    except orjson.JSONDecodeError as error:
        words = f"The arguments are not JSON: {error}." if whole else BROKE_OFF
        return ToolCall(identity, partial.name, raw, error=words, incomplete=not whole)
    # A closed object cannot be the beginning of a longer one. So it is whole, even if the stream broke off after it.
    if not whole and not (isinstance(arguments, dict) and partial.name):
        return ToolCall(identity, partial.name, raw, error=BROKE_OFF, incomplete=True)
    try:
        orjson.dumps([arguments])  # orjson reads deeper nesting than it writes, and the event holds them one level deep
    except orjson.JSONEncodeError:
        return ToolCall(identity, partial.name, raw, error="The arguments are nested too deeply.")
    return ToolCall(identity, partial.name, raw, arguments)


def _loaded(raw: str) -> Any:
    """Parse the text of arguments. Raises JSONDecodeError, also if it has too many values."""
    if has_more_values(raw.encode("utf-8", "replace"), MAX_VALUES):
        raise orjson.JSONDecodeError(f"more than {MAX_VALUES} values", "", 0)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        if not raw.startswith("{}"):
            raise
        return orjson.loads(raw[2:])  # Anthropic's first block has an empty object, which some proxies pass on as text


def _slot(index: object) -> int | str | None:
    """Return an index as a number, also if it came as a text or a float; another text as it is; else None."""
    if isinstance(index, str):
        return int(index) if re.fullmatch(r"[0-9]{1,9}", index) else index or None
    if isinstance(index, float):
        return int(index) if index.is_integer() else None
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _json(value: object) -> str:
    """Return arguments that came as JSON values as the text of that JSON."""
    try:
        return dumps(value).decode()
    except RecursionError:
        return "(nested too deeply)"  # which is no JSON, so the model is told of an error


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _too_many() -> StreamError:
    return StreamError(f"The model made more than {MAX_CALLS} tool calls in one turn.", "too_many_tool_calls", 502)
