"""Writes a stream of the native protocol into its log."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.core.dialect import Writer
from server.core.lifecycle import State, state_of
from server.core.openai.chunks import REASONING_FIELDS
from server.core.openai.tool_calls import ToolCall, ToolCalls
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import Ending, Record, target_of
from server.core.upstream_api import Piece
from server.core.wide_json import loads
from server.dialects.native.events import (
    REASONING,
    RECOVERY,
    START,
    TOKEN,
    TOOL_CALL,
    TOOL_RESULT,
    call_event,
    delta_event,
    event,
    last_events,
)

THINKING = {"field": "thinking"}
# The fields of a delta that have events of their own, the latter only as texts. The rest becomes a `delta` event.
TOLD = frozenset({"role", "content", "tool_calls", "function_call"})
TOLD_TEXTS = frozenset({"refusal", *REASONING_FIELDS})


class NativeWriter(Writer):
    """Writes `start`, then the model's texts and calls and the tools' results, then `done`.

    `log` has the current target. `client_tools`: tools that the server does not run; None: it runs no tools.
    """

    def __init__(self, log: Log, client_tools: Collection[str] | None = None) -> None:
        self.finished_calls: Sequence[ToolCall] = ()  # of the turn that finished last
        self._log = log
        self._client_tools = client_tools
        self._started = False
        self._tokens = 0
        self._turn = 0
        self._recoveries = 0
        self._calls = ToolCalls()
        self._reasons: frozenset[str] = frozenset()  # the turn's finish reason: the last one counts

    def resume(self, records: Sequence[Record]) -> None:
        """Go on after records that an earlier relay of this stream has written."""
        self._started = bool(records)
        texts = [data for kind, data in records if kind in (TOKEN, REASONING)]
        self._tokens = loads(texts[-1])["token_count"] if texts else 0
        self._turn = sum(kind == TOOL_CALL for kind, _ in records)  # it only has to differ from earlier turns
        self._recoveries = sum(kind == RECOVERY for kind, _ in records)

    def begin_attempt(self) -> None:
        """Forget the partial calls of an earlier attempt. No client saw them."""
        self._calls = ToolCalls(self._turn)
        self._reasons = frozenset()

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return the events of pieces that were just received.

        Raises:
            StreamError: there are too many calls, or they are too large.

        """
        records: list[Record] = []
        if not self._started:
            self._started = True
            beginning = self._log.beginning
            records.append(
                event(START, stream_id=beginning.id, model=beginning.model, target=target_of(self._log.target))
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
                records.append(self._text_event(REASONING, text, field=name))
                break  # some upstreams send the same text under two names
        if content := delta.get("content"):
            self._tokens += 1
            texts, others = _parts(content)
            for kind, text in texts:
                records.append(self._text_event(kind, text, **THINKING if kind == REASONING else {}))
            if others:
                records.append(delta_event({"content": others}))
        if text := _text(delta, "refusal"):
            records.append(self._text_event(TOKEN, text, field="refusal"))
        if rest := {name: value for name, value in delta.items() if value and not _told(name, value)}:
            records.append(delta_event(rest))
        if "tool_calls" in delta or "function_call" in delta:
            self._calls.feed(delta)
        if reason := choice.get("finish_reason"):
            self._reasons = frozenset({reason})

    def end_turn(self) -> list[Record]:
        """Return the events of the turn's calls.

        Not the word of the finish reason makes a call whole, and some upstreams send that word with every chunk, or
        never. But if the turn was cut short, the model may have wanted more calls: then no call counts as finished.
        """
        whole = state_of(self._reasons) is State.COMPLETE
        calls = self._calls.take(whole=whole)
        self.finished_calls = calls if whole else ()
        self._turn += 1
        self.begin_attempt()
        return [self._call_event(call) for call in calls]

    def _text_event(self, kind: str, text: str, **field: str) -> Record:
        """Return the event of a text. `field` is the delta's field if that is not `content`."""
        now = int(time.time() * 1000)
        return event(kind, content=text, token_count=self._tokens, timestamp=now, **field)

    def _call_event(self, call: ToolCall) -> Record:
        # The server also answers calls of unknown tools: it tells the model which tools there are.
        server = self._client_tools is not None and call.name not in self._client_tools
        return call_event(call, server=server)

    def recovery(self, announcement: Mapping[str, Any]) -> list[Record]:
        """Return the event of a recovery or a takeover. Its `attempt` counts these events of the stream, from 1."""
        self._recoveries += 1
        return [event(RECOVERY, attempt=self._recoveries, **announcement)]

    def tool_result(self, call: ToolCall, result: Mapping[str, Any]) -> list[Record]:
        """Return the event of a tool's result."""
        return [event(TOOL_RESULT, id=call.id, name=call.name, **result)]

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:  # noqa: ARG002 — the protocol's
        """Return calls that broke off, the error if there is one, and `done`."""
        if self.finished_calls and ending.error is None:
            # Upstreams have many words for the end of a turn with calls, or none. A client needs to know only one.
            ending = replace(ending, reason="tool_calls")
        return [*map(self._call_event, self._calls.take(whole=False)), *last_events(ending)]


def _parts(content: object, kind: str = TOKEN) -> tuple[list[tuple[str, str]], list[Any]]:
    """Return the texts of a delta's content with their kinds, and the parts that are none.

    Mistral sends a list of parts, which includes the thinking (again a list of parts), references and images.
    """
    if isinstance(content, str):
        return [(kind, content)], []
    texts: list[tuple[str, str]] = []
    others: list[Any] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and (text := _text(part, "text")):
            texts.append((kind, text))
        elif isinstance(part, dict) and kind == TOKEN and (thinking := part.get("thinking")):
            thoughts, unknown = _parts(thinking, REASONING)
            texts += thoughts
            others += unknown
        elif part:
            others.append(part)
    return texts, others


def _told(name: str, value: object) -> bool:
    """Whether a field of a delta has an event of its own."""
    return name in TOLD or (name in TOLD_TEXTS and isinstance(value, str))


def _text(delta: dict[str, Any], name: str) -> str:
    text = delta.get(name)
    return text if isinstance(text, str) else ""
