"""Token counts: measured or estimated."""

from typing import Any

import pytest

from server.core.openai.usage import MAX_COUNT, estimate, measured, prompt_bytes

ONE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    ("usage", "kept"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2}, ONE),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}, {**ONE, "total_tokens": 9}),
        ({**ONE, "total_tokens": "3"}, ONE),
        ({**ONE, "x": [[[]]], "queue_time": 0.5, "cost": 1}, ONE),
        (
            {**ONE, "prompt_tokens_details": {"cached_tokens": 1, "x": 1}},
            {**ONE, "prompt_tokens_details": {"cached_tokens": 1}},
        ),
        (
            {**ONE, "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": None}},
            {**ONE, "completion_tokens_details": {"reasoning_tokens": 2}},
        ),
        ({**ONE, "prompt_tokens_details": [1], "completion_tokens_details": None}, ONE),
        (
            {"prompt_tokens": 2**64 - 1, "completion_tokens": 2**64 - 1},
            dict.fromkeys(ONE, MAX_COUNT),
        ),
        (
            {"prompt_tokens": -1, "completion_tokens": 2},
            {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2},
        ),
        (
            {**ONE, "prompt_tokens_details": {"cached_tokens": 2**70}},
            {**ONE, "prompt_tokens_details": {"cached_tokens": MAX_COUNT}},
        ),
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1.0, "completion_tokens": 1}, None),
        ({"prompt_tokens": float("inf"), "completion_tokens": 1}, None),
        ({"prompt_tokens": 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": None}, None),
        ({"prompt_tokens": "1", "completion_tokens": "1"}, None),
        ({}, None),
        ([1], None),
        ("prompt_tokens", None),
        (None, None),
    ],
)
def test_measured(usage: Any, kept: dict[str, Any] | None) -> None:
    """Usage is a measurement when it has both counts, as numbers. Only known fields are kept, each in its bounds."""
    assert measured(usage) == kept


def test_estimate() -> None:
    """An estimate adds up, rounds the prompt up, and is marked as an estimate."""
    assert estimate(9, 5) == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "measured": False}
    assert estimate(0, 0)["total_tokens"] == 0


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        ([{"role": "user", "content": "abc"}], 3),
        ([{"role": "user", "content": "é🙂"}], 6),
        ([{"content": "ab"}, {"content": None}, {}, "x", {"content": "cd"}], 4),
        ([{"content": [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {}}, 5, "de"]}], 5),
        ([{"content": "\ud83d"}], 3),
        ([], 0),
        (None, 0),
    ],
)
def test_prompt_bytes(messages: Any, size: int) -> None:
    """The texts of all messages count, in bytes, in whatever form they are."""
    assert prompt_bytes({"messages": messages}) == size
