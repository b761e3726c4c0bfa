"""Writes a stream of the Messages API into its log: the events of an upstream as they are, or those made of chunks."""

from collections.abc import Sequence
from typing import Any

from server.core.dialect import Writer
from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.openai.chunks import Chunk, text_of
from server.core.openai.tool_calls import ToolCalls
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import WHOLE, Ending, Record
from server.core.upstream_api import Piece
from server.core.wide_json import dumps, loads
from server.dialects.messages import events
from server.dialects.messages.blocks import TEXT, THINKING, Blocks
from server.dialects.messages.errors import error_event
from server.dialects.messages.said import details_of, texts_of
from server.dialects.messages.stop_reasons import stop_reason
from server.dialects.messages.tool_names import long_names
from server.dialects.messages.usage import counts_prompt, estimated_input, messages_usage
from server.dialects.messages.whole import message_of

PING_AFTER = 10.0  # seconds of silence; Claude Code says after 20 that the answer stalls, and gives up after 180
BEGIN_AFTER = 6  # silences of that length; until then a failure can still be told by an HTTP status
# NamedTuple's own constructor is a Python function. This one saves that call per token.
_record = tuple.__new__
STOPS = ("stop_reason", "matched_stop")  # where vLLM and SGLang name the text that stopped a choice


class MessagesWriter(Writer):
    """Writes `message_start`, the content blocks, then `message_delta` with the usage, and `message_stop`."""

    idle_after = PING_AFTER

    def __init__(self, log: Log, generation: Generation) -> None:
        self._log = log
        self._generation = generation
        self._started = False
        self._names: dict[str, str] | None = None  # whole names of tools by their short ones
        self._blocks = Blocks(self._whole_name, lambda index: events.call_id(log.beginning.id, index))
        self._calls = ToolCalls()
        self._begun = 0  # calls that have a block
        self._reasons: tuple[str, ...] = ()  # the finish reason: the last one counts
        self._sequence: object = None  # what stopped the answer, as the upstream names it
        self._refused = False
        self._silences = 0
        self._begun_alone = False  # `message_start` is not the upstream's own, so that its counts are missing there
        self._held: list[bytes] = []  # an upstream's own `message_delta`
        self._whole: Piece | None = None
        self._head = b""  # how an event with more of the open text begins; empty: no text is open

    # --- the state ---------------------------------------------------------------------------------------------------

    def resume(self, records: Sequence[Record]) -> None:
        """Take in records that an earlier relay of this stream has written."""
        for kind, data in records:
            if kind == events.MESSAGE_START:
                self._started = True
            elif kind != events.BLOCK_DELTA or events.SIGNATURE.encode() in data:
                self._follow(kind, loads(data))

    def begin_attempt(self) -> None:
        """Forget what an earlier attempt said of its ending. After a call there is no further attempt."""
        self._calls, self._begun = ToolCalls(), 0
        self._reasons, self._sequence, self._held = (), None, []

    def _follow(self, kind: str, event: dict[str, Any]) -> None:
        """Note which block is open, by an event that is in the log."""
        if kind == events.BLOCK_STOP:
            self._blocks.restore_closed()
        elif kind == events.BLOCK_DELTA:
            delta = event.get("delta")
            if isinstance(delta, dict) and delta.get("type") == events.SIGNATURE:
                self._blocks.restore_signed()
        if kind != events.BLOCK_START:
            return
        index, block = event.get("index"), event.get("content_block")
        block = block if isinstance(block, dict) else {}
        at = index if isinstance(index, int) else self._blocks.index
        self._blocks.restore(str(block.get("type")), at, block.get("id"))

    # --- pieces ------------------------------------------------------------------------------------------------------

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return the events of pieces that were just received. Raises StreamError if there are too many calls."""
        records: list[Record] = []
        for data, chunk, api in pieces:
            if api == "messages":
                self._pass_on(data, records)
            elif not self._head or not self._say_at_once(chunk, records):
                self._take(chunk, records)
                self._head = self._blocks.text_head
        return records

    def _say_at_once(self, chunk: Chunk, records: list[Record]) -> bool:
        """Write a chunk that is nothing but text for the open block, as nearly all are. Return False for others."""
        try:
            (choice,) = chunk["choices"]
            delta = choice["delta"]
            text = delta["content"]
            plain = text.__class__ is str and len(delta) == 1 and not choice["finish_reason"] and not choice["index"]
        except (KeyError, TypeError, ValueError):
            return False
        if not plain or not text:
            return False
        records.append(_record(Record, (events.BLOCK_DELTA, b"%b%b}}" % (self._head, dumps(text)))))
        return True

    def _take(self, chunk: Chunk, records: list[Record]) -> None:
        if not self._started:
            self._started = True
            records.append(self._message_start(chunk))
        for choice in chunk.get("choices") or ():
            if not choice.get("index"):
                self._take_delta(choice.get("delta") or {})
                if choice.get("finish_reason"):
                    self._reasons = (choice["finish_reason"],)
                    self._sequence = next((stop for name in STOPS if (stop := choice.get(name))), None)
        self._blocks.flush(records)

    def _take_delta(self, delta: dict[str, Any]) -> None:
        blocks = self._blocks
        details = list(details_of(delta))
        thought = text_of(delta, "reasoning") or "".join(text for kind, text in details if kind == "text")
        if isinstance(thought, str) and thought:
            blocks.say(THINKING, thought)
        for kind, value in details:
            if kind == "signature":
                blocks.sign(value)
            elif kind == "data":
                blocks.redacted(value)
        for kind, text in texts_of(delta.get("content"), TEXT):
            blocks.say(kind, text)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._refused = True
            blocks.say(TEXT, refusal)
        if "tool_calls" in delta or "function_call" in delta:
            self._calls.feed(delta)
            for call in self._calls.partial[self._begun :]:
                blocks.call(call)
            self._begun = len(self._calls.partial)

    def _message_start(self, chunk: Chunk) -> Record:
        model = chunk.get("model")
        usage = chunk.get("usage")
        counts = messages_usage(usage) if counts_prompt(usage) else None
        message: dict[str, Any] = {
            "id": events.message_id(self._log.beginning.id),
            "type": "message",
            "role": "assistant",
            "model": model if model and isinstance(model, str) else self._generation.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # Nearly every chat upstream counts at the end. Clients show how full the context is by this count.
            "usage": counts or messages_usage({"prompt_tokens": estimated_input(self._generation.body)}),
        }
        return events.event(events.MESSAGE_START, message=message)

    def _pass_on(self, data: bytes, records: list[Record]) -> None:
        """Write an upstream's own event. Its last two wait for the ending, which is written with the last record."""
        if not data:
            return  # a chunk that has no event of its own
        event = loads(data)
        kind, self._head = event["type"], b""
        if kind == events.MESSAGE_DELTA:
            self._held.append(data)
            return
        if kind == events.MESSAGE_STOP or (kind == events.MESSAGE_START and self._started):
            return
        if not self._started and kind != events.MESSAGE_START:
            if kind == events.PING:
                return  # clients take nothing before the message has begun
            self._begun_alone = True
            records.append(self._message_start({}))
        self._started = True
        self._follow(kind, event)
        records.append(Record(kind, data))

    def idle(self) -> list[Record]:
        """Return a ping, once the message has begun. After a minute without a token it begins without one."""
        self._silences += 1
        if self._started:
            return [events.PING_RECORD]
        if self._silences < BEGIN_AFTER:
            return []
        self._started = self._begun_alone = True
        return [self._message_start({}), events.PING_RECORD]

    # --- the end -----------------------------------------------------------------------------------------------------

    def end_turn(self) -> list[Record]:
        """Return the rest of the blocks."""
        records: list[Record] = []
        self._blocks.flush(records, final=True)
        return records

    def whole_answer(self, piece: Piece) -> None:
        """Keep the JSON of an answer that is not streamed."""
        self._whole = piece

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:  # noqa: ARG002 — the protocol's
        """Return `message_delta` and `message_stop`.

        A failed stream has the event `error` instead. An answer that is not streamed has its JSON instead.
        """
        if ending.error is not None:
            return [error_event(ending.error, ending.status, self._log.beginning.request_id)]
        if self._whole is not None:
            return [Record(WHOLE, self._whole_message(self._whole))]
        records: list[Record] = []
        if not self._started:
            self._take({}, records)
        records += self.end_turn()
        if self._held:
            records += [Record(events.MESSAGE_DELTA, self._with_counts(data, ending)) for data in self._held]
        else:
            records.append(self._message_delta(ending))
        return [*records, events.STOP_RECORD]

    def _with_counts(self, data: bytes, ending: Ending) -> bytes:
        """Return an upstream's `message_delta`, with the counts that its own `message_start` would have had."""
        if not self._begun_alone or not ending.usage:
            return data
        event = loads(data)
        own = event.get("usage")
        return dumps({**event, "usage": {**messages_usage(ending.usage), **(own if isinstance(own, dict) else {})}})

    def _message_delta(self, ending: Ending) -> Record:
        usage = messages_usage(ending.usage or {"completion_tokens": ending.tokens})
        sequence = self._stop_sequence(self._sequence)
        # A reader of another dialect's log may have no finish reason to show. The ending has it.
        reasons = self._reasons or ((ending.reason,) if ending.state is State.INCOMPLETE else ())
        reason = stop_reason(reasons, calls=self._blocks.calls, refused=self._refused, sequence=sequence)
        delta = {"stop_reason": reason, "stop_sequence": sequence if reason == "stop_sequence" else None}
        return events.event(events.MESSAGE_DELTA, delta=delta, usage=usage)

    def _whole_message(self, piece: Piece) -> bytes:
        if piece.api == "messages":
            return piece.data
        message = message_of(
            piece.chunk,
            identity=events.message_id(self._log.beginning.id),
            model=self._generation.model,
            name=self._whole_name,
            stop_sequence=self._stop_sequence,
        )
        if not counts_prompt(piece.chunk.get("usage")):
            message["usage"]["input_tokens"] = estimated_input(self._generation.body)
        return dumps(message)

    # --- what the request says ---------------------------------------------------------------------------------------

    def _whole_name(self, name: str) -> str:
        """Return the name of a tool as the client knows it."""
        if self._names is None:
            source = self._generation.source
            tools = None if source is None else source.get("tools")
            listed = tools if isinstance(tools, list) else []
            self._names = long_names(tool.get("name") for tool in listed if isinstance(tool, dict))
        return self._names.get(name, name)

    def _stop_sequence(self, stop: object) -> str | None:
        """Return the text that stopped the answer, if it is one that the request names."""
        stops = self._generation.body.get("stop")
        return stop if isinstance(stop, str) and isinstance(stops, list) and stop in stops else None
