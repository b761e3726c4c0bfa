"""Token counts: measured or estimated."""

from typing import Any

import pytest

from server.core.openai.usage import estimate, measured, prompt_bytes


@pytest.mark.parametrize(
    ("usage", "yes"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 0}, True),
        ({"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1, "details": {}}, True),
        ({"prompt_tokens": 1}, False),
        ({"prompt_tokens": 1, "completion_tokens": None}, False),
        ({"prompt_tokens": "1", "completion_tokens": "1"}, False),
        ({}, False),
    ],
)
def test_measured(usage: dict[str, Any], yes: bool) -> None:
    """Usage is a measurement when it has both counts, as numbers."""
    assert measured(usage) is yes


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
