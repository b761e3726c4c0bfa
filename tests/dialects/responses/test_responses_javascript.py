"""OpenAI's JavaScript SDK and its helper, which checks the order, the ids and the types of events."""

import json
from typing import Any

from cutting_proxy import cutting, random_cuts
from node import node

TEXT = "Water finds its own level."
LONG = " ".join(f"w{n}é☃" for n in range(60))
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False},
    {"type": "custom", "name": "patch"},
]
CALLS = [
    {"index": 0, "id": "c0", "name": "look", "arguments": {"at": "here"}},
    {"index": 1, "id": "c1", "name": "patch", "arguments": {"input": "a\nb"}},
]


async def test_a_text(provider, model, gateway) -> None:
    """A text with reasoning: raw events, the helper and the whole answer."""
    await provider.script(model, {"reasoning": ["Hm."], "text": TEXT})
    said = await node("openai_responses.mjs", gateway.url, model)
    assert "error" not in said
    assert said["numbers"] == list(range(len(said["numbers"])))
    assert said["text"] == said["final"]["output_text"] == said["whole"]["output_text"] == TEXT


async def test_calls(provider, model, gateway) -> None:
    """Interleaved calls of a function and of a custom tool."""
    script = {"text": TEXT, "tool_calls": CALLS, "interleave": True, "tool_piece": 3}
    await provider.script(model, script)
    said = await node("openai_responses.mjs", gateway.url, model, json.dumps({"tools": TOOLS}))
    assert "error" not in said
    _, look, patch = said["final"]["output"]
    assert (json.loads(look["arguments"]), patch["input"]) == ({"at": "here"}, "a\nb")


async def test_a_failure(provider, model, gateway) -> None:
    """A stream that breaks off raises an error with the gateway's code."""
    await provider.script(model, {"text": TEXT, "cut_after": 2})
    said = await node("openai_responses.mjs", gateway.url, model)
    assert said["error"]["code"] == "upstream_cut"


async def test_cuts(provider, model, gateway) -> None:
    """Over the resuming `fetch`, connections that are cut at random bytes are not noticed."""
    await provider.script(model, {"text": LONG, "rate": 400})
    async with cutting(gateway.port, random_cuts(8, seed=3)) as proxy:
        said = await node("openai_responses.mjs", proxy.url, model, "{}", "resuming")
        assert proxy.made == 8
    assert "error" not in said
    assert said["numbers"] == list(range(len(said["numbers"])))
    assert said["final"]["output_text"] == said["whole"]["output_text"] == LONG


async def test_a_silence(provider, model, gateway, monkeypatch) -> None:
    """An event in a silence does not disturb the helper, which takes its output for all there is."""
    monkeypatch.setattr("server.dialects.responses.writer.ResponsesWriter.idle_after", 0.2)
    await provider.script(model, {"reasoning": ["Hm."], "text": TEXT, "stall_after": 3, "stall_for": 1.0})
    said = await node("openai_responses.mjs", gateway.url, model)
    assert "error" not in said
    assert said["final"]["output_text"] == TEXT
    assert len(said["numbers"]) > len(said["final"]["output"]) + 16
