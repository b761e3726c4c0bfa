"""What the compliance tests of Open Responses demand over HTTP (https://www.openresponses.org/), compaction aside.

Each test has the name of theirs. `strict_responses` checks every resource and event against that schema, too.
"""

from typing import Any

import pytest
import strict_responses
import wire
from gateway import InProcess

PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
WEATHER = {
    "type": "function", "name": "get_weather", "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}  # fmt: skip


def said(role: str, *content: Any) -> dict[str, Any]:
    """Give a message of the input."""
    return {"type": "message", "role": role, "content": content[0] if len(content) == 1 else list(content)}


async def resource(gateway: InProcess, model: str, **fields: Any) -> dict[str, Any]:
    """Create a response; return it, checked."""
    answer = await wire.call(gateway.root, "POST", "/v1/responses", {"model": model, **fields})
    assert answer.status == 200, answer.body
    return strict_responses.resource(answer.json)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"input": [said("user", "Say hello in three words.")]}, id="basic-response"),
        pytest.param(
            {
                "input": [
                    said("user", "Hi."), {**said("assistant", "I think."), "phase": "commentary"},
                    {**said("assistant", "Hello."), "phase": "final_answer"}, said("user", "Go on."),
                ]
            },
            id="assistant-phase",
        ),
        pytest.param(
            {"input": [said("system", "You are a pirate."), said("user", "Say hello.")]}, id="system-prompt"
        ),
        pytest.param(
            {
                "input": [
                    said(
                        "user", {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": PIXEL},
                    )
                ]
            },
            id="image-input",
        ),
        pytest.param(
            {"input": [said("user", "I am Ann."), said("assistant", "Hello Ann!"), said("user", "Who am I?")]},
            id="multi-turn",
        ),
    ],
)  # fmt: skip
async def test_an_answer(provider, model, gateway, fields: dict[str, Any]) -> None:
    """The whole resource, completed, with a text."""
    await provider.script(model, {"text": "Hello there, Ann."})
    found = await resource(gateway, model, **fields)
    assert found["status"] == "completed"
    assert found["output"][0]["content"][0]["text"] == "Hello there, Ann."
    assert found["usage"]["total_tokens"] == found["usage"]["input_tokens"] + found["usage"]["output_tokens"]
    assert len((await provider.seen(model))[0]["body"]["messages"]) == len(fields["input"])


async def test_streaming_response(provider, model, gateway) -> None:
    """Every event has its schema, `event:` is its type, and `[DONE]` comes last."""
    await provider.script(model, {"text": "One, two, three."})
    body = {"model": model, "stream": True, "input": [said("user", "Count to three.")]}
    answer = await wire.call(gateway.root, "POST", "/v1/responses", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = strict_responses.events(answer.events)
    assert [event.event for event in answer.events[:-1]] == [event["type"] for event in found]
    assert answer.events[-1].data == b"[DONE]"
    assert found[-1]["type"] == "response.completed"


async def test_tool_calling(provider, model, gateway) -> None:
    """A call in the output; the tools of the resource have every field, null or not."""
    call = {"index": 0, "id": "call_1", "name": "get_weather", "arguments": {"location": "Rome"}}
    await provider.script(model, {"tool_calls": [call]})
    found = await resource(gateway, model, input=[said("user", "The weather in Rome?")], tools=[WEATHER])
    assert [item["type"] for item in found["output"]] == ["function_call"]
    assert (found["output"][0]["name"], found["output"][0]["status"]) == ("get_weather", "completed")
    assert found["tools"] == [{**WEATHER, "strict": None}]


async def test_an_error(gateway, model) -> None:
    """Errors are nested, and name the field."""
    answer = await wire.call(gateway.root, "POST", "/v1/responses", {"model": model, "input": [{"type": "nothing"}]})
    assert answer.status == 400
    assert {"message", "type", "param", "code"} <= answer.error.keys()
    assert answer.error["param"] == "input[0].type"
