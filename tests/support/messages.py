"""A client of the Messages API on a raw socket."""

import json
from collections.abc import Sequence
from typing import Any

import wire


def body(model: str, **fields: Any) -> dict[str, Any]:
    """Give the body of a request, streaming unless told otherwise."""
    said = [{"role": "user", "content": "Say it."}]
    return {"model": model, "max_tokens": 100, "stream": True, "messages": said, **fields}


async def ask(root: str, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> wire.Answer:
    """Make one request and read all of its answer."""
    return await wire.call(root, "POST", "/v1/messages?beta=true", body(model, **fields), headers)


def data(events: Sequence[wire.Event]) -> list[dict[str, Any]]:
    """Give the data of events. Raises AssertionError if the name of one is not the type in its data."""
    found = [json.loads(event.data) for event in events]
    assert [one["type"] for one in found] == [event.event for event in events]
    return found


def text(events: Sequence[wire.Event]) -> str:
    """Give the whole text of events."""
    deltas = [one["delta"] for one in data(events) if one["type"] == "content_block_delta"]
    return "".join(delta.get("text", "") for delta in deltas)


def kinds(events: Sequence[wire.Event]) -> list[str]:
    """Give the names of events, without deltas and pings."""
    return [event.event for event in events if event.event not in ("content_block_delta", "ping")]


WHOLE = ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
