"""Writes a Responses stream into its log: each piece of an upstream's answer becomes its events, one record each."""

from collections.abc import Sequence
from typing import Any

from server.core.dialect import Writer
from server.core.errors import StreamError
from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.openai.chunks import REASONING_FIELDS
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import Ending, Record, Tokens
from server.core.upstream_api import Piece
from server.core.wide_json import dumps, loads
from server.dialects.responses import events
from server.dialects.responses.calls import Call, Calls
from server.dialects.responses.delta import annotations_of, images_of, logprobs_of, texts_of, with_bytes
from server.dialects.responses.output import Output, encoded
from server.dialects.responses.request import asks_logprobs
from server.dialects.responses.resource import request_of, response, settled

IDLE_AFTER = 60.0  # seconds; Codex gives up after 300 s without an event, and a comment is none
PARTS: dict[str, dict[str, Any]] = {
    events.TEXT: {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    events.REFUSAL: {"type": "refusal", "refusal": ""},
    events.REASONING: {"type": "reasoning_text", "text": ""},
}
NUMBERED = ("type", "sequence_number")  # the fields that `events.event` writes
TERMINAL = {
    State.COMPLETE: events.COMPLETED,
    State.INCOMPLETE: events.INCOMPLETE,
    State.FAILED: events.FAILED,
    State.CANCELLED: events.FAILED,
}


class ResponsesWriter(Writer):
    """Writes the events of one response. All that it needs to go on is in its log.

    Ids follow from the stream's id and the place in the output, so that every writer of this stream gives the same.
    """

    idle_after = IDLE_AFTER

    def __init__(self, log: Log, generation: Generation) -> None:
        self._log = log
        self._source = request_of(generation)
        # A text that comes with its probabilities is no plain token.
        self.token_kind = "" if asks_logprobs(self._source) else events.TEXT_DELTA
        self._next = 0  # the next sequence number
        self._output = Output()
        self._calls = Calls(self._source)
        self._settled: dict[str, Any] = {}  # fields of the resource, by an upstream that speaks Responses
        self._heeded = not generation.changed  # otherwise the upstream was asked for something else
        self._closing: list[Record] | None = None  # the records before the last ones
        self._before: tuple[object, bytes] = (None, b"")  # the open part, and the start of the data of its deltas

    @property
    def _identity(self) -> str:
        return self._log.beginning.id.removeprefix("strm_")

    # --- the log so far ------------------------------------------------------------------------------------------

    def resume(self, records: Sequence[Record]) -> None:
        """Take in records that an earlier relay of this stream has written."""
        self._next = self._log.tail
        for kind, data in records:
            if kind != events.DONE:
                event = loads(data)
                self._output.add(kind, event)
                self._hear(event)

    def begin_attempt(self) -> None:
        """Forget the partial calls of an earlier attempt. If a client saw one, there is no other attempt."""
        self._calls = Calls(self._source)

    # --- what every stream has ---------------------------------------------------------------------------------

    def _emit(self, records: list[Record], kind: str, **fields: Any) -> None:
        records.append(events.event(kind, self._next, fields))
        self._next += 1
        self._output.add(kind, fields)

    def _emit_state(self, records: list[Record], kind: str, ending: Ending | None = None) -> None:
        """Write an event with the whole resource."""
        items = self._output.items("incomplete" if ending is not None and kind != events.COMPLETED else None)
        whole = response(self._log.beginning, self._source, items, ending=ending)
        self._emit(records, kind, response={**whole, **self._settled})

    def begin(self) -> list[Record]:
        """Return the first events of a response in the background: its client may go as soon as it has the id."""
        return self.opening() if self._source.get("background") else []

    def opening(self, *kinds: str) -> list[Record]:
        """Return the first events, if there are none yet."""
        records: list[Record] = []
        if not self._next:
            for kind in kinds or (events.CREATED, events.IN_PROGRESS):
                self._emit_state(records, kind)
        return records

    def idle(self) -> list[Record]:
        """Return an event that says that the response goes on. Its output is all that there is.

        Clients take it for the state of the response: OpenAI's JavaScript helper forgets what is not in it.
        """
        records = self.opening()
        if not records:
            self._emit_state(records, events.IN_PROGRESS)
        return records

    # --- texts ---------------------------------------------------------------------------------------------------

    def tokens(self, tokens: Tokens) -> Sequence[Record]:
        """Return the records of plain tokens. They differ in their number and their text, which are neighbours."""
        part = self._output.part
        if part is None or part.kind != events.TEXT:
            records = self.opening()
            for text in tokens.texts:
                self._say(records, events.TEXT, text.decode())
            return records
        number, texts = self._next, tokens.texts
        self._next += len(texts)
        for text in texts:
            part.text += text
        numbered = [b'%d,"delta":"%b"' % (place, text) for place, text in enumerate(texts, number)]
        return Tokens(events.TEXT_DELTA, self._start_of_delta(), numbered, b"}")

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return the events of pieces that were just received.

        Raises:
            StreamError: there are too many calls, or they are too large; or an event of the upstream is out of place.

        """
        passed_on = [loads(piece.data) if piece.api == events.API else None for piece in pieces]
        for event in passed_on:
            if event is not None:
                self._hear(event)
        records = self.opening()
        for piece, event in zip(pieces, passed_on, strict=True):
            if event is not None:
                self._pass_on(records, event)
                continue
            chunk = piece.chunk or loads(piece.data)
            for choice in chunk.get("choices") or ():
                if not choice.get("index"):
                    self._take(choice, records)
        return records

    def _hear(self, event: dict[str, Any]) -> None:
        """Note what an upstream says about the response as a whole."""
        if event.get("type") in events.LIFECYCLE and self._heeded:
            self._settled |= settled(event.get("response"))

    def _pass_on(self, records: list[Record], event: dict[str, Any]) -> None:
        """Write an event of an upstream that speaks Responses, with its number here.

        What begins and ends a response is the writer's own: after a recovery there is one response all the same.
        """
        kind = str(event["type"])
        if kind in events.TERMINAL and not len(self._output):  # all that this upstream tells
            for item in (event.get("response") or {}).get("output") or ():
                self._pass_on(records, {"type": events.ITEM_DONE, "output_index": len(self._output), "item": item})
        if kind in events.LIFECYCLE or not kind.startswith("response."):  # such as OpenAI's `keepalive`
            return
        try:
            if kind == events.ITEM_DONE and event["output_index"] == len(self._output):  # it was never added
                self._emit(records, events.ITEM_ADDED, output_index=event["output_index"], item=event["item"])
            self._emit(records, kind, **{name: value for name, value in event.items() if name not in NUMBERED})
        except (LookupError, TypeError, AttributeError) as error:
            words = f"The upstream's event {kind[:100]!r} is out of place."
            raise StreamError(words, "upstream_garbage", 502) from error

    def _take(self, choice: dict[str, Any], records: list[Record]) -> None:
        delta = choice.get("delta") or {}
        for name in REASONING_FIELDS:
            if (text := delta.get(name)) and isinstance(text, str):
                self._say(records, events.REASONING, text)
                break  # some upstreams send the same text under two names
        for kind, text in texts_of(delta.get("content")):
            self._say(records, kind, text, logprobs_of(choice) if kind == events.TEXT else [])
        if (text := delta.get("refusal")) and isinstance(text, str):
            self._say(records, events.REFUSAL, text)
        for annotation in annotations_of(delta):
            self._annotate(records, annotation)
        for item in delta.get("output_items") or ():  # of a hosted tool, from an attempt that joins an earlier one
            index = len(self._output)
            self._emit(records, events.ITEM_ADDED, output_index=index, item=item)
            self._emit(records, events.ITEM_DONE, output_index=index, item=item)
        for image in () if delta.get("output_items") else images_of(delta):  # otherwise they are in these items
            self._show_image(records, image)
        if delta.get("tool_calls") or delta.get("function_call"):
            self._take_calls(records, delta)

    def _say(self, records: list[Record], kind: str, text: str, logprobs: Sequence[Any] = ()) -> None:
        """Write a piece of text into the part that is open, or into a new one."""
        part = self._output.part
        if part is None or part.kind != kind:
            self._open_part(records, kind)
            part = self._output.part
        assert part is not None
        if logprobs:
            place = {"item_id": self._id_of(part.item), "output_index": part.item, "content_index": part.index}
            self._emit(records, f"{kind}.delta", **place, delta=text, logprobs=list(logprobs))
            return
        # As `_emit` does it, but without an object.
        part.text += encoded(text)
        data = b'%b%d,"delta":%b}' % (self._start_of_delta(), self._next, dumps(text))
        records.append(Record(f"{kind}.delta", data))
        self._next += 1

    def _start_of_delta(self) -> bytes:
        """Return what the data of all deltas of the open part begins with: all but the number and the text."""
        part, start = self._before
        if part is not self._output.part:
            open_part = self._output.part
            assert open_part is not None
            fields = {
                "type": f"{open_part.kind}.delta",
                "item_id": self._id_of(open_part.item),
                "output_index": open_part.item,
                "content_index": open_part.index,
                **({"logprobs": []} if open_part.kind == events.TEXT else {}),
            }
            start = dumps(fields)[:-1] + b',"sequence_number":'
            self._before = open_part, start
        return start

    def _id_of(self, item: int) -> str:
        return str(self._output.item(item)["id"])

    def _open_part(self, records: list[Record], kind: str) -> None:
        wanted = "reasoning" if kind == events.REASONING else "message"
        item = self._output.open_item
        if item is not None and self._output.item(item)["type"] != wanted:
            self._finish(records, item, "completed")
            item = None
        elif item is not None:
            self._close_part(records)
        if item is None:
            item = len(self._output)
            self._emit(records, events.ITEM_ADDED, output_index=item, item=self._new_item(wanted, item))
        index = len(self._output.item(item)["content"])
        place = {"item_id": self._id_of(item), "output_index": item, "content_index": index}
        self._emit(records, events.PART_ADDED, **place, part=PARTS[kind])

    def _new_item(self, kind: str, index: int) -> dict[str, Any]:
        if kind == "reasoning":
            item = {"id": f"rs_{self._identity}_{index}", "type": kind, "summary": [], "content": []}
        else:
            item = {"id": f"msg_{self._identity}_{index}", "type": kind, "role": "assistant", "content": []}
        return {**item, "status": "in_progress"}

    def _annotate(self, records: list[Record], annotation: dict[str, Any]) -> None:
        part = self._output.part
        if part is None or part.kind != events.TEXT:
            self._open_part(records, events.TEXT)
            part = self._output.part
        assert part is not None
        count = len(self._output.item(part.item)["content"][part.index]["annotations"])
        place = {"item_id": self._id_of(part.item), "output_index": part.item, "content_index": part.index}
        self._emit(records, events.ANNOTATION, **place, annotation_index=count, annotation=annotation)

    def _show_image(self, records: list[Record], image: str) -> None:
        if self._output.open_item is not None:
            self._finish(records, self._output.open_item, "completed")
        index = len(self._output)
        item = {"id": f"ig_{self._identity}_{index}", "type": events.IMAGE, "status": "in_progress", "result": None}
        self._emit(records, events.ITEM_ADDED, output_index=index, item=item)
        item = {**item, "status": "completed", "result": image}
        self._emit(records, events.ITEM_DONE, output_index=index, item=item)

    def _close_part(self, records: list[Record]) -> None:
        """End the part that is open, if there is one."""
        part = self._output.part
        if part is None:
            return
        item = self._output.item(part.item)
        content = item["content"][part.index]
        place = {"item_id": item["id"], "output_index": part.item, "content_index": part.index}
        name = "refusal" if part.kind == events.REFUSAL else "text"
        probabilities = {"logprobs": content["logprobs"]} if part.kind == events.TEXT else {}
        if not self._output.is_whole(part.kind, part.item, part.index):
            self._emit(records, f"{part.kind}.done", **place, **{name: content[name]}, **probabilities)
        if probabilities:
            content = {**content, "logprobs": [with_bytes(one) for one in content["logprobs"]]}
        self._emit(records, events.PART_DONE, **place, part=content)

    # --- calls and endings -------------------------------------------------------------------------------------

    def _take_calls(self, records: list[Record], delta: dict[str, Any]) -> None:
        if self._output.open_item is not None:
            self._finish(records, self._output.open_item, "completed")
        for call in self._calls.feed(delta):
            self._add_to_call(records, call)

    def _show(self, records: list[Record], call: Call) -> None:
        item, tool = len(self._output), call.tool
        identity = call_id = call.partial.id or f"call_{self._identity}_{item}"
        if call_id in self._output.calls:  # results name their call by its id
            identity = f"{call_id}_{item}"
        custom = tool.kind == "custom"
        shown: dict[str, Any] = {
            "id": f"{'ctc' if custom else 'fc'}_{self._identity}_{item}",
            "type": "custom_tool_call" if custom else "function_call",
            "call_id": identity,
            "name": tool.name,
            **({"namespace": tool.namespace} if tool.namespace else {}),
            **({"input": ""} if custom else {"arguments": "", "status": "in_progress"}),
        }
        self._emit(records, events.ITEM_ADDED, output_index=item, item=shown)
        call.begin(item)

    def _add_to_call(self, records: list[Record], call: Call, *, last: bool = False) -> None:
        """Show what is new of a call, and the call itself if it is new."""
        if call.item is None:
            self._show(records, call)
        assert call.item is not None
        if text := call.take(last=last):
            item = self._output.item(call.item)
            kind = events.INPUT if item["type"] == "custom_tool_call" else events.ARGUMENTS
            self._emit(records, f"{kind}.delta", item_id=item["id"], output_index=call.item, delta=text)

    def _finish(self, records: list[Record], index: int, status: str) -> None:
        """End an item: its text, its part and itself."""
        if index == self._output.open_item:
            self._close_part(records)
        item = self._output.item(index)
        place = {"item_id": item["id"], "output_index": index}
        if self._output.is_whole(events.ARGUMENTS, index) or self._output.is_whole(events.INPUT, index):
            pass
        elif item["type"] == "function_call":
            self._emit(records, f"{events.ARGUMENTS}.done", **place, arguments=item["arguments"])
        elif item["type"] == "custom_tool_call":
            self._emit(records, f"{events.INPUT}.done", **place, input=item["input"])
        item = {**self._output.item(index), **({"status": status} if "status" in item else {})}
        self._emit(records, events.ITEM_DONE, output_index=index, item=item)

    def _finish_all(self, records: list[Record], status: str) -> None:
        """End all items, in their order. Calls that waited for more are shown now."""
        for call in self._calls.all():
            self._add_to_call(records, call, last=True)
        for index in self._output.unfinished:
            self._finish(records, index, status)

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:  # noqa: ARG002 — the protocol's
        """Return the ends of all items, the event with the final response, and `[DONE]`.

        A failure leaves its items open. It has an `error` before the final response, unless the client cancelled.
        """
        if self._closing is None:
            self._closing = self._closed(ending)
        records, number = list(self._closing), self._next
        if ending.state is State.FAILED and ending.error is not None:
            self._emit(records, events.ERROR, **events.error_fields(ending.error["error"]))
        self._emit_state(records, TERMINAL[ending.state], ending)
        self._next = number  # the relay asks once more if what it got cannot be stored
        return [*records, events.DONE_RECORD]

    def _closed(self, ending: Ending) -> list[Record]:
        """Return what comes before the error and the final response."""
        if ending.error is None:
            records = self.opening()
            self._finish_all(records, "completed" if ending.state is State.COMPLETE else "incomplete")
            return records
        # Before the first token, a failure has one record more than a cancellation: see `failure_records`.
        return self.opening(events.CREATED) if ending.state is State.FAILED else self.opening()
