"""An intake of an upstream that speaks another API: its events are translated, and recover as chunks do."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import Kind, UpstreamError
from server.core.openai.intake import Intake
from server.core.openai.sse import Event
from server.core.openai.transcript import Transcript
from server.core.recovery.seam import Suppression
from server.core.upstream_api import Piece, Translator

HEAD = {"id": "a", "created": 1, "model": "m"}


class Letters(Translator):
    """An API whose events are called `text`, `note`, `error`, and `end`, which is also the last one."""

    def __init__(self) -> None:
        self.done = False

    def read(self, event: Event) -> Sequence[Piece]:
        """Return what an event means."""
        if event.type == b"error":
            raise UpstreamError(Kind.OVERLOADED, "busy")
        if event.type == b"note":
            return [Piece(event.data, {"choices": []}, "letters")]
        self.done = event.type == b"end"
        delta = {} if self.done else {"content": event.data.decode()}
        chunk = {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": "stop" if self.done else None}]}
        return [Piece(event.data, chunk, "letters")]


def events(*said: tuple[str, str]) -> bytes:
    return b"".join(f"event: {kind}\ndata: {text}\n\n".encode() for kind, text in said)


def read(intake: Intake, data: bytes, size: int) -> list[Piece]:
    return [piece for at in range(0, len(data), size) for piece in intake.feed(data[at : at + size])]


@given(st.lists(st.sampled_from(["a", "b c", "\u5b57"]), min_size=1, max_size=5), st.integers(1, 60))
def test_any_split(texts: list[str], size: int) -> None:
    """Every event goes through as it came, with its meaning beside it, however the body was split."""
    data = events(("note", "start"), *(("text", text) for text in texts), ("end", "bye"), ("text", "too late"))
    intake = Intake(Transcript(), show_usage=False, translator=Letters())
    pieces = read(intake, data, size)
    assert [piece.data.decode() for piece in pieces] == ["start", *texts, "bye"]
    assert {piece.api for piece in pieces} == {"letters"}
    assert (intake.done, intake.transcript.tokens, intake.transcript.finish) == (True, len(texts), {0: "stop"})


@pytest.mark.parametrize("parsed", [True, False])
def test_after_a_cut(parsed: bool) -> None:
    """A later attempt joins the delivered text, as chunks: what the client has is not sent again."""
    intake = Intake(
        Transcript(), show_usage=False, seam=Suppression({(0, "content"): "ab"}), parsed=parsed, translator=Letters()
    )
    pieces = read(intake, events(("note", "start"), ("text", "a"), ("text", "bc"), ("text", "d"), ("end", "")), 999)
    told: list[Any] = [orjson.loads(piece.data)["choices"][0] for piece in pieces]
    assert "".join(choice["delta"].get("content", "") for choice in told) == "cd"
    assert told[-1]["finish_reason"] == "stop"
    assert {piece.api for piece in pieces} == {"chat"}


def test_failures() -> None:
    """An error among the events is the attempt's failure, and what came before it is kept. A cut is one, too."""
    intake = Intake(Transcript(), show_usage=False, translator=Letters())
    assert [piece.data for piece in intake.feed(events(("text", "a"), ("error", "x"), ("text", "b")))] == [b"a"]
    assert intake.failure is not None
    assert intake.failure.kind is Kind.OVERLOADED
    cut = Intake(Transcript(), show_usage=False, translator=Letters())
    cut.feed(events(("text", "a")))
    error = cut.at_end()
    assert error is not None
    assert error.kind is Kind.TRUNCATED
