"""The words of upstreams for the end of an answer: whole, cut short, or failed."""

import orjson
import pytest

from server.core.errors import Kind
from server.core.lifecycle import State, state_of
from server.core.openai.finish_reasons import BROKEN, CUT_SHORT, MALFORMED, failure_of, is_cut_short
from server.core.openai.intake import Intake
from server.core.openai.transcript import Transcript

WHOLE = [
    *("stop", "tool_calls", "function_call", "STOP", "COMPLETE", "end_turn", "eos_token", "eos", "stop_sequence"),
    *("tool_use", "tool-calls", "STOP_SEQUENCE", "FINISH_REASON_STOP", "TOOL_CALL", "finished", "a_new_one"),
]


def test_tables_are_apart() -> None:
    """No word has two meanings, and each has its source beside it."""
    tables = (CUT_SHORT, BROKEN, MALFORMED)
    assert len({name for table in tables for name in table}) == sum(map(len, tables))
    assert all(name == name.lower() and source for table in tables for name, source in table.items())


@pytest.mark.parametrize("reason", WHOLE)
def test_whole(reason: str) -> None:
    """Any word for a usual end, also one that nobody has heard of, means a whole answer."""
    assert not is_cut_short(reason)
    assert failure_of({"finish_reason": reason}) is None
    assert state_of(frozenset({reason})) is State.COMPLETE


@pytest.mark.parametrize("reason", CUT_SHORT)
def test_cut_short(reason: str) -> None:
    """A limit or a filter makes the ending incomplete, in upper and lower case, and is no failure."""
    for word in (reason, reason.upper(), reason.replace("_", "-"), f"FINISH_REASON_{reason.upper()}"):
        assert state_of(frozenset({word, "stop"})) is State.INCOMPLETE
        assert failure_of({"finish_reason": word}) is None


@pytest.mark.parametrize("reason", [*BROKEN, *MALFORMED])
@pytest.mark.parametrize("before", [b"", b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'])
def test_failed(reason: str, before: bytes) -> None:
    """A failure ends the attempt before its chunk is delivered. What the model got wrong opens no circuit."""
    for word in (reason, reason.upper()):
        intake = Intake(Transcript(), show_usage=False)
        chunk = {"choices": [{"index": 0, "delta": {"content": "lost"}, "finish_reason": word}]}
        assert len(intake.feed(before + b"data: " + orjson.dumps(chunk) + b"\n\n")) == bool(before)
        assert intake.failure is not None
        assert intake.failure.kind is (Kind.IN_BAND if reason in BROKEN else Kind.UNUSABLE)
        assert reason in intake.failure.message


@pytest.mark.parametrize("reason", [None, "", 5, ["error"], {"error": 1}])
def test_no_reason(reason: object) -> None:
    """What is no word means no failure."""
    assert failure_of({"finish_reason": reason}) is None


def test_words_beside_it() -> None:
    """OpenRouter puts the error of the provider behind it beside the finish reason: it is the reason, and the class."""
    error = failure_of({"finish_reason": "error", "error": {"code": 429, "message": "Slow down."}})
    assert error is not None
    assert (error.kind, error.message) == (Kind.RATE_LIMIT, "Slow down.")
    silent = failure_of({"finish_reason": "error", "error": {"code": None}})
    assert silent is not None
    assert silent.kind is Kind.IN_BAND


def test_after_the_end() -> None:
    """After the answer has finished, a failure takes nothing of it back."""
    intake = Intake(Transcript(), show_usage=False)
    ends = [{"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]} for reason in ("stop", "error")]
    intake.feed(b"".join(b"data: " + orjson.dumps(end) + b"\n\n" for end in ends))
    assert intake.failure is None
    assert intake.done
