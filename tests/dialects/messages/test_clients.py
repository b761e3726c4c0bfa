"""Other programs that speak Messages, unmodified: Anthropic's JavaScript SDK, and LangChain."""

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from node import node

CALLS = [{"id": "c1", "name": "look", "arguments": {"at": "the gate"}}, {"id": "c2", "name": "look", "arguments": {}}]
SCRIPT = {"reasoning": ["I ", "see."], "text": "Let me look.", "tool_calls": CALLS, "interleave": True}


async def test_the_javascript_sdk(provider, gateway, model) -> None:
    """The helper, the raw stream, a whole message, an error, a stream that breaks off, and a count."""
    refusal = {"status": 529, "error": {"message": "busy"}}
    broken = {"text": "One two three", "cut_after": 2}
    await provider.script(model, SCRIPT, SCRIPT, SCRIPT, refusal, broken)
    said: Any = await node("anthropic_sdk.mjs", gateway.root, model)
    assert "".join(said["texts"]) == "Let me look."
    for message in (said["message"], said["whole"]):
        assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use", "tool_use"]
        assert [block["input"] for block in message["content"][2:]] == [{"at": "the gate"}, {}]
        assert message["stop_reason"] == "tool_use"
    assert (said["kinds"][0], said["kinds"][-1]) == ("message_start", "message_stop")
    assert said["refused"] == ["OverloadedError", 529, "overloaded_error"]
    assert said["broken"] == ["One two ", "APIError", "api_error"]
    assert said["count"] > 0


@tool
def look(at: str = "") -> str:
    """Look somewhere."""
    return f"nothing at {at}"


async def test_langchain(provider, gateway, model) -> None:
    """ChatAnthropic streams, calls a tool, gives its result back, and is told the usage."""
    await provider.script(model, {"text": "Let me look.", "tool_calls": CALLS[:1]}, {"text": "A lock."})
    chat = ChatAnthropic(model=model, base_url=gateway.root, api_key="none", max_tokens=100, max_retries=0)
    with_tools = chat.bind_tools([look])
    question = HumanMessage("What is there?")
    answer: Any = None
    async for chunk in with_tools.astream([question]):
        answer = chunk if answer is None else answer + chunk
    assert answer.text == "Let me look."
    assert [(call["name"], call["args"], call["id"]) for call in answer.tool_calls] == [
        ("look", {"at": "the gate"}, "c1")
    ]
    assert answer.usage_metadata["output_tokens"] > 0
    result = ToolMessage("nothing", tool_call_id="c1")
    last = await with_tools.ainvoke([question, answer, result])
    assert last.text == "A lock."
    assert last.response_metadata["stop_reason"] == "end_turn"
    asked = (await provider.seen(model))[-1]["body"]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "tool"]
