"""The usage in an answer of a plain path, wherever it stands and whatever its counts are called."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.plain.usage import KEPT, UsageFinder


def tokens(prompt: int = 0, completion: int = 0, cached: int = 0, reasoning: int = 0) -> dict[str, int]:
    return {"prompt": prompt, "completion": completion, "cached": cached, "reasoning": reasoning}


def found(data: bytes, size: int = 1000, kind: str = "application/json") -> dict[str, int] | None:
    finder = UsageFinder(kind)
    for at in range(0, len(data), size):
        finder.feed(data[at : at + size])
    return finder.tokens()


ROWS: dict[str, tuple[Any, dict[str, int] | None]] = {
    "embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, tokens(8)),
    "a completion": ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, tokens(5, 7)),
    "images": ({"input_tokens": 3, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 2}}, tokens(3, 9, 2)),
    "details": (
        {
            "prompt_tokens": 3,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
        tokens(3, 9, 1, 4),
    ),
    "rerank": ({"total_tokens": 15}, tokens(15)),
    "seconds of audio": ({"type": "duration", "seconds": 3}, None),
    "nothing": ({}, None),
    "nonsense": ({"prompt_tokens": "8", "completion_tokens": True, "total_tokens": -1}, None),
    "too much": ({"prompt_tokens": 1 << 70}, tokens((1 << 53) - 1)),
}


@pytest.mark.parametrize("row", ROWS)
def test_counts(row: str) -> None:
    """Each API's counts, at the end of an answer and at its beginning, behind and before megabytes."""
    usage, expected = ROWS[row]
    for filler in ("x", "x" * 3_000_000):
        for answer in ({"data": filler, "usage": usage}, {"usage": usage, "data": filler}):
            assert found(json.dumps(answer).encode(), 50_000) == expected


@given(st.integers(1, 3 * KEPT), st.integers(0, 4 * KEPT))
def test_pieces(size: int, filler: int) -> None:
    """It does not matter how the answer was cut into pieces, nor how long it is."""
    data = json.dumps({"data": "y" * filler, "usage": {"prompt_tokens": 4, "total_tokens": 4}}).encode()
    assert found(data, size) == tokens(4)


def test_a_stream() -> None:
    """In a stream the last count is that of all."""
    chunks = [{"choices": [{"text": "a"}], "usage": None}] * 1000
    chunks += [{"usage": {"prompt_tokens": 1, "completion_tokens": n}} for n in (1, 2, 3)]
    data = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
    assert found(data, kind="text/event-stream") == tokens(1, 3)


def test_words_in_a_text() -> None:
    """What a text quotes is no count, and neither is anything in another kind of answer."""
    quoted = json.dumps({"text": '"usage": {"prompt_tokens": 5}'}).encode()
    assert found(quoted) is None
    assert found(b'"usage": {"prompt_tokens": 5}', kind="audio/mpeg") is None
    assert found(b'"usage": {"prompt_tokens": 5') is None
    assert found(b'{"usage": ' + b"[" * 20_000) is None
