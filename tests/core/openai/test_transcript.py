"""Counters of what a stream has delivered."""

from typing import Any

import pytest

from server.core.openai.transcript import Transcript

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def observed(*choices: dict[str, Any], count: int = 1, **fields: Any) -> Transcript:
    transcript = Transcript(count)
    for choice in choices:
        transcript.observe({"id": "c", "choices": [choice], **fields})
    return transcript


@pytest.mark.parametrize(
    ("delta", "tokens", "reasoning", "calls"),
    [
        ({}, 0, False, False),
        (None, 0, False, False),
        ({"role": "assistant", "content": ""}, 0, False, False),
        ({"content": "x"}, 1, False, False),
        ({"role": "assistant", "content": "x"}, 1, False, False),
        ({"reasoning_content": "x", "content": None}, 0, True, False),
        ({"reasoning": "x"}, 0, True, False),
        ({"content": "x", "reasoning": "y"}, 1, True, False),
        ({"content": [{"type": "thinking"}]}, 1, True, False),
        ({"tool_calls": [{"index": 0}]}, 0, False, True),
        ({"content": "", "tool_calls": [{"index": 0}]}, 0, False, True),
        ({"content": "x", "tool_calls": [{"index": 0}]}, 1, False, True),
        ({"content": None, "function_call": {"name": "f"}}, 0, False, True),
        ({"audio": {"data": "…"}}, 0, False, True),
        ({"content": "x", "tool_calls": [], "reasoning": None}, 1, False, False),
    ],
)
def test_deltas(delta: Any, tokens: int, reasoning: bool, calls: bool) -> None:
    """Each kind of delta is counted, also beside a text: a call must never be repeated."""
    transcript = observed({"index": 0, "delta": delta})
    assert (transcript.tokens, transcript.reasoning, transcript.calls) == (tokens, reasoning, calls)


def test_identity_of_the_first() -> None:
    """The identity is that of the first chunk, whatever follows. A chunk without one still begins the stream."""
    transcript = Transcript()
    assert not transcript.begun
    transcript.observe({"id": "a", "created": 1, "model": "m", "object": "o", "choices": []})
    transcript.observe({"id": "b", "created": 2, "model": "n", "choices": []})
    assert transcript.first == {"id": "a", "created": 1, "model": "m"}
    assert observed({}, id=None).begun
    bare = Transcript()
    bare.observe({"choices": []})
    assert bare.begun


def test_finish() -> None:
    """A stream has finished when as many choices as were requested have. A missing index is the first choice."""
    transcript = observed({"finish_reason": "stop"}, {"index": 0, "finish_reason": "stop"}, count=2)
    assert transcript.finish == {0: "stop"}
    assert not transcript.finished
    transcript.observe({"choices": [{"index": 1, "finish_reason": "length"}]})
    assert transcript.finish == {0: "stop", 1: "length"}
    assert transcript.finished


def test_usage() -> None:
    """The last usage counts. Null is none. Only a chunk without choices is shown as usage."""
    transcript = observed({"delta": {"content": "x"}}, usage=None)
    assert transcript.usage is None
    transcript.observe({"choices": [{"index": 0}], "usage": {**USAGE, "completion_tokens": 1}})
    assert not transcript.usage_shown
    transcript.observe({"choices": [], "usage": USAGE})
    assert transcript.usage == USAGE
    assert transcript.usage_shown


@pytest.mark.parametrize(
    ("answer", "finish", "tokens"),
    [
        ({"choices": [{"index": 0, "finish_reason": "stop"}], "usage": USAGE}, {0: "stop"}, 2),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}, {0: "stop", 1: "length"}, 0),
        ({"choices": [{"index": [], "finish_reason": "stop"}, 5, {"finish_reason": 1}]}, {0: "stop"}, 0),
        ({"choices": 5, "usage": "many"}, {}, 0),
        ({"choices": None, "usage": {"completion_tokens": "2"}}, {}, 0),
        ({}, {}, 0),
    ],
)
def test_whole(answer: dict[str, Any], finish: dict[int, str], tokens: int) -> None:
    """A whole answer is counted by its own usage and finish reasons, whatever else it is."""
    transcript = Transcript()
    transcript.observe_whole(answer)
    assert transcript.finish == finish
    assert transcript.tokens == tokens
