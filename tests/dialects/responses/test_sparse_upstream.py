"""Upstreams that speak Responses and leave events out: every client gets the whole answer, once."""

import json
from typing import Any

import pytest
import strict_responses
import wire
from raw_upstream import RawUpstream
from test_responses_upstream import MESSAGE, PART, TEXT, before, begun, completed, events, sent

AT = {"item_id": "msg_u", "output_index": 0, "content_index": 0}
SAID = {**PART, "text": TEXT}
WHOLE = {**MESSAGE, "content": [SAID], "status": "completed"}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "c1",
    "name": "look",
    "arguments": "",
    "status": "in_progress",
}
ARGUMENTS = '{"at":"here"}'
CALLED = {**CALL, "arguments": ARGUMENTS, "status": "completed"}
CALL_AT = {"item_id": "fc_1", "output_index": 1}

ADDED = {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE}
PART_ADDED = {"type": "response.content_part.added", **AT, "part": PART}
DELTAS = [{"type": "response.output_text.delta", **AT, "delta": text, "logprobs": []} for text in (TEXT[:5], TEXT[5:])]
TEXT_DONE = {"type": "response.output_text.done", **AT, "text": TEXT, "logprobs": []}
PART_DONE = {"type": "response.content_part.done", **AT, "part": SAID}
DONE = {"type": "response.output_item.done", "output_index": 0, "item": WHOLE}
CALL_ADDED = {"type": "response.output_item.added", "output_index": 1, "item": CALL}
CALL_DELTA = {"type": "response.function_call_arguments.delta", **CALL_AT, "delta": ARGUMENTS}
CALL_TOLD = {"type": "response.function_call_arguments.done", **CALL_AT, "arguments": ARGUMENTS}
CALL_DONE = {"type": "response.output_item.done", "output_index": 1, "item": CALLED}

ANSWERS: dict[str, list[dict[str, Any]]] = {
    "all events": [
        ADDED, PART_ADDED, *DELTAS, TEXT_DONE, PART_DONE, DONE, CALL_ADDED, CALL_DELTA, CALL_TOLD, CALL_DONE,
        completed(output=[WHOLE, CALLED]),
    ],
    "no output at the end": [
        ADDED, PART_ADDED, *DELTAS, TEXT_DONE, PART_DONE, DONE, CALL_ADDED, CALL_DELTA, CALL_TOLD, CALL_DONE,
        completed(),
    ],
    "no deltas": [ADDED, PART_ADDED, TEXT_DONE, PART_DONE, DONE, CALL_ADDED, CALL_DONE, completed()],
    "whole items": [ADDED, DONE, CALL_ADDED, CALL_DONE, completed(output=[WHOLE, CALLED])],
    "items that were not added": [DONE, CALL_DONE, completed()],
    "nothing but the end": [completed(output=[WHOLE, CALLED])],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_chat_client(name: str) -> None:
    """The text and the call are in the chunks, once, and the finish reason says that there is a call."""
    upstream = RawUpstream(sent(begun(), *ANSWERS[name]))
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    async with before(upstream) as gateway:
        answer = await wire.complete(gateway.root, "m", tools=[tool])
    chunks = [json.loads(event.data) for event in answer.events if event.data != b"[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == TEXT
    pieces = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
    assert [(call["index"], call["id"], call["function"]["name"]) for call in pieces if "id" in call] == [
        (0, "c1", "look")
    ]
    assert "".join(call["function"].get("arguments", "") for call in pieces) == ARGUMENTS
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_client_of_responses(name: str) -> None:
    """The final response has the message and the call, and each was added before it was done."""
    upstream = RawUpstream(sent(begun(), *ANSWERS[name]))
    async with before(upstream) as gateway:
        if name in ("all events", "no output at the end"):
            found = await events(gateway.root)
        else:  # what is left out is left out here as well, so that a strict check of the order would fail
            body = {"model": "m", "input": "Say it.", "stream": True}
            answer = await wire.call(gateway.root, "POST", "/v1/responses", body)
            found = [json.loads(event.data) for event in answer.events if event.data != b"[DONE]"]
    response = strict_responses.resource(found[-1]["response"])
    message, call = response["output"]
    assert message["content"][0]["text"] == TEXT
    assert (call["call_id"], call["arguments"]) == ("c1", ARGUMENTS)
    kinds = [(event["type"].rpartition(".")[2], event["output_index"]) for event in found if "item" in event]
    assert kinds == [("added", 0), ("done", 0), ("added", 1), ("done", 1)]
