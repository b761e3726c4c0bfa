"""The native form: typed events (CONTRACT, Native events) made of what happens to a stream."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from server.core.errors import StreamError
from server.core.openai.chunks import REASONING_FIELDS
from server.core.openai.intake import Piece
from server.core.openai.tool_calls import WHOLE_REASONS, ToolCall, ToolCalls
from server.core.openai.transcript import Transcript
from server.core.records import DONE, ERROR, Beginning, Ending, Record

START, TOKEN, REASONING, TOOL_CALL, TOOL_RESULT, RECOVERY = (
    "start", "token", "reasoning", "tool_call", "tool_result", "recovery",
)  # fmt: skip
THINKING = {"field": "thinking"}
MAX_ARGUMENTS = 4 * 1024 * 1024  # characters of all calls under way: they are in no log yet that would bound them


def event(kind: str, **fields: Any) -> Record:
    """Return the record of one event; `event:` and the `type` in its data agree."""
    return Record(kind, orjson.dumps({"type": kind, **fields}))


class NativeWriter:
    """The native form: `start`, then what the model says, calls and gets, then `done`.

    `target` tells who is being asked. `serves` tells whether a tool of this name is run by the server.
    """

    def __init__(
        self, beginning: Beginning, target: Callable[[], str], serves: Callable[[str], bool] = lambda _name: False
    ) -> None:
        self.whole = b""
        self.called: Sequence[ToolCall] = ()  # of the turn that finished last
        self._beginning = beginning
        self._target = target
        self._serves = serves
        self._started = False
        self._tokens = 0
        self._turn = 0
        self._calls = ToolCalls()

    def take_up(self, records: Sequence[Record]) -> None:
        """Go on after records that an earlier relay of this stream has written."""
        self._started = bool(records)
        said = [data for kind, data in records if kind in (TOKEN, REASONING)]
        self._tokens = orjson.loads(said[-1])["token_count"] if said else 0
        self._turn = sum(1 for kind, _ in records if kind == TOOL_CALL)  # only has to be another than before

    def attempt(self) -> None:
        """Begin an attempt: calls that an earlier one left unfinished were never shown, and are forgotten."""
        self._calls = ToolCalls(self._turn)

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return the events of chunks that were just received.

        Raises:
            StreamError: the calls under way are larger than anything they could be meant for.

        """
        records: list[Record] = []
        if not self._started:
            self._started = True
            records.append(
                event(START, stream_id=self._beginning.id, model=self._beginning.model, target=self._target())
            )
        for piece in pieces:
            for choice in piece.chunk.get("choices") or ():
                if not choice.get("index"):
                    self._take(choice, records)
        return records

    def _take(self, choice: dict[str, Any], records: list[Record]) -> None:
        delta = choice.get("delta") or {}
        for name in REASONING_FIELDS:
            if text := _text(delta, name):
                records.append(self._said(REASONING, text, field=name))
                break  # some upstreams send the same text under both names
        if content := delta.get("content"):
            self._tokens += 1
            for kind, text in _parts(content):
                records.append(self._said(kind, text, **THINKING if kind == REASONING else {}))
        if text := _text(delta, "refusal"):
            records.append(self._said(TOKEN, text, field="refusal"))
        if "tool_calls" in delta or "function_call" in delta:
            self._calls.feed(delta)
            if self._calls.size > MAX_ARGUMENTS:
                raise StreamError("The arguments of a tool call are too large.", "stream_too_large", 502)
        if reason := choice.get("finish_reason"):
            self._turn += 1
            calls = self._calls.take(reason)
            records += map(self._call, calls)
            self.called = calls if reason in WHOLE_REASONS else ()  # there may have been more of them

    def _said(self, kind: str, text: str, **field: str) -> Record:
        """Return the event of a text; `field` names the delta's field where it is not the content."""
        now = int(time.time() * 1000)
        return event(kind, content=text, token_count=self._tokens, timestamp=now, **field)

    def _call(self, call: ToolCall) -> Record:
        return event(TOOL_CALL, **call.event(), server=self._serves(call.name))

    def recovery(self, event_fields: dict[str, Any]) -> list[Record]:
        """Return the event of a recovery."""
        return [event(RECOVERY, **event_fields)]

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:  # noqa: ARG002 — the Writer protocol's
        """Return calls that broke off, the error if there is one, and `done`."""
        return [*map(self._call, self._calls.take(None)), *last_events(ending)]


def last_events(ending: Ending) -> list[Record]:
    """Return the error if there is one, and `done`."""
    done = event(
        DONE,
        status=ending.state.value,
        reason=ending.reason,
        token_count=ending.tokens,
        usage=ending.usage,
        ttft_ms=ending.ttft_ms,
    )
    return [_error(ending.error["error"]), done] if ending.error is not None else [done]


def _parts(content: object) -> list[tuple[str, str]]:
    """Return the texts of a delta's content; Mistral's comes as a list of parts, with its thinking among them."""
    if isinstance(content, str):
        return [(TOKEN, content)]
    found: list[tuple[str, str]] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            if text := _text(part, "text"):
                found.append((TOKEN, text))
            found += [(REASONING, text) for _, text in _parts(part.get("thinking"))]
    return found


def _text(delta: dict[str, Any], name: str) -> str:
    text = delta.get(name)
    return text if isinstance(text, str) else ""


def _error(error: dict[str, Any]) -> Record:
    # The log ends here: coming back for this stream brings nothing more.
    retryable = bool(error.get("retryable"))
    return event(ERROR, message=error["message"], code=error["code"], retryable=retryable, resumable=False)
