"""A stream in the form that it was not created in.

A view is fed every record from the first, so that it knows what is open (who called which tool), and shows what comes
after the reader's cursor. A record may make several events here, or none. All but the last of them carry the id that
the client has *already*: one that is cut between them gets them again, and knows how many of them it has seen.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import orjson

from server.core.native import NativeWriter
from server.core.openai.intake import Piece
from server.core.openai.sse import frame
from server.core.openai.transcript import Transcript
from server.core.records import CHUNK, DONE_DATA, Beginning, Ending, Form, Record

Facts = Callable[[], Ending | None]


class View(Protocol):
    """Makes one form's events of the other's records."""

    def events(self, record: Record) -> list[tuple[bytes, bytes]]:
        """Return the events that the next record makes: their `event:` (or nothing) and data."""


class NativeView:
    """A stream of `/v1/chat/completions`, natively. `ending` tells how it ended, once it has."""

    def __init__(self, beginning: Beginning, target: Callable[[], str], ending: Facts) -> None:
        self._writer = NativeWriter(beginning, target)
        self._ending = ending

    def events(self, record: Record) -> list[tuple[bytes, bytes]]:
        """Return native events of a chunk, `[DONE]` or the error."""
        if record.kind == CHUNK:
            made = self._writer.pieces([Piece(record.data, orjson.loads(record.data))])
        else:
            ending = self._ending()
            assert ending is not None  # its record is written with it
            made = self._writer.ending(ending, Transcript())
        return [(kind.encode(), data) for kind, data in made]


class OpenAIView:
    """A stream of `/api/stream` as chunks. What the server does in between (its tools, a recovery) has no word here."""

    def __init__(self, beginning: Beginning, ending: Facts) -> None:
        self._ending = ending
        self._head = {
            "id": f"chatcmpl-{beginning.id}",
            "object": "chat.completion.chunk",
            "created": int(beginning.created),
            "model": beginning.model,
        }
        self._calls = 0  # of the client's tools so far

    def events(self, record: Record) -> list[tuple[bytes, bytes]]:
        """Return the chunks of one native event."""
        event = orjson.loads(record.data)
        return [(b"", data) for data in self._data(record.kind, event)]

    def _data(self, kind: str, event: dict[str, Any]) -> list[bytes]:
        match kind:
            case "start":
                return [self._chunk({"role": "assistant", "content": ""})]
            case "token" | "reasoning":
                return [self._chunk({event.get("field", "content"): event["content"]})]
            case "tool_call" if not event["server"]:
                return [self._chunk({"tool_calls": [self._call(event)]})]
            case "done":  # and not `error` before it: a cursor at the tail has to mean that everything was seen
                ending = self._ending()
                failure = ending.error if ending else None
                return [orjson.dumps(failure)] if failure else [self._chunk({}, event["reason"]), DONE_DATA]
        return []

    def _call(self, event: dict[str, Any]) -> dict[str, Any]:
        index, self._calls = self._calls, self._calls + 1
        arguments = event["raw"] if "raw" in event else orjson.dumps(event["arguments"]).decode()
        function = {"name": event["name"], "arguments": arguments}
        return {"index": index, "id": event["id"], "type": "function", "function": function}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return orjson.dumps({**self._head, "choices": [choice]})


class Projection:
    """Frames of a view for one reader: fed every record from number 1, it shows what comes after `after`."""

    def __init__(self, view: View, after: int) -> None:
        self._view = view
        self._after = after
        self._seq = 0
        self._shown = after  # the id that the client has

    def skip_to(self, seq: int) -> None:
        """Go on after record `seq`: those before it are lost."""
        self._seq = seq

    def frames(self, records: Iterable[Record]) -> bytes:
        """Return the next records as they go out; nothing where they are skipped or the reader has them."""
        shown: list[bytes] = []
        for record in records:
            self._seq += 1
            events = self._view.events(record)
            if events and self._seq > self._after:
                *others, (kind, data) = events
                shown += [frame(self._shown, data, kind) for kind, data in others]
                shown.append(frame(self._seq, data, kind))
                self._shown = self._seq
        return b"".join(shown)


def project(
    beginning: Beginning, form: Form, after: int, target: Callable[[], str], ending: Facts
) -> Projection | None:
    """Return how a stream looks in `form`, or None where that is the form it was created in."""
    if form == beginning.form:
        return None
    view: View = OpenAIView(beginning, ending) if form == "openai" else NativeView(beginning, target, ending)
    return Projection(view, after)
