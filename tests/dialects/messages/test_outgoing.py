"""A chat request, as an upstream that speaks Messages gets it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import Kind, Rejected, UpstreamError
from server.core.openai.request import check_fields
from server.dialects.messages.fields import pass_over
from server.dialects.messages.outgoing import messages_body
from server.dialects.messages.request import chat_body


def made(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the Messages request for some chat messages."""
    return messages_body({"messages": list(messages), **fields}, fields.pop("to", "claude-x"))


def user(content: Any = "Hi") -> dict[str, Any]:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def text(words: str) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": words}


def test_a_whole_request() -> None:
    """The golden transcript of a request with everything that a chat client sends."""
    body = {
        "model": "small",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 1000,
        "temperature": 1.5,
        "stop": "END",
        "user": "u1",
        "seed": 1,
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look",
                    "description": "Looks.",
                    "parameters": {"type": "object", "properties": {}},
                    "strict": True,
                },
            }
        ],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            user("What is there?"),
            {
                "role": "assistant",
                "content": None,
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Let me "},
                    {"type": "reasoning.text", "text": "see."},
                    {"type": "reasoning.text", "signature": "SIG"},
                    {"type": "reasoning.encrypted", "data": "xyz"},
                ],
                "tool_calls": [
                    {"id": "a:1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
                    {"id": "b", "type": "function", "function": {"name": "look", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "a:1", "content": "A lock."},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "A gate."}]},
            user([{"type": "text", "text": "And?"}]),
        ],
    }
    assert messages_body(body, "claude-x") == {
        "model": "claude-x",
        "stream": True,
        "max_tokens": 1000,
        "temperature": 1,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "system": "Be brief.\n\nBe kind.",
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "tools": [
            {
                "name": "look",
                "description": "Looks.",
                "input_schema": {"type": "object", "properties": {}},
                "strict": True,
            }
        ],
        "messages": [
            {"role": "user", "content": [text("What is there?")]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Let me see.", "signature": "SIG"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "tool_use", "id": "a_1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "b", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a_1", "content": [text("A lock.")]},
                    {"type": "tool_result", "tool_use_id": "b", "content": [text("A gate.")]},
                    text("And?"),
                ],
            },
        ],
    }


PNG = "data:image/png;base64,AAAA"
PARTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    ),
    (
        {"type": "image_url", "image_url": "http://a.example/b.png"},
        {"type": "image", "source": {"type": "url", "url": "http://a.example/b.png"}},
    ),
    (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
        },
    ),
    (
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
    ),
]


@pytest.mark.parametrize(("part", "block"), PARTS)
def test_parts(part: dict[str, Any], block: dict[str, Any]) -> None:
    """Each part of a content has its block."""
    assert made(user([part]))["messages"] == [{"role": "user", "content": [block]}]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": [user([{"type": "input_audio", "input_audio": {}}])]}, "messages[0]"),
        ({"messages": [user([{"type": "file", "file": {"file_id": "f"}}])]}, "messages[0]"),
        ({"messages": [user()], "tools": [{"type": "custom", "custom": {}}]}, "tools[0]"),
        ({"messages": [user()], "n": 2}, "n"),
    ],
)
def test_what_cannot_be_said(body: dict[str, Any], place: str) -> None:
    """Another target may be able to say it, so it is asked; if there is none, the client's 400 names the place."""
    with pytest.raises(UpstreamError) as caught:
        messages_body(body, "m")
    error = caught.value
    assert (error.kind, error.http_status, error.param, error.trait.other) == (Kind.REFUSED, 400, place, True)


FORCED = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
THINKING: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("claude-opus-4-6", {}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    ("claude-sonnet-5", {}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    (
        "claude-sonnet-4-5-20250929",
        {},
        {"thinking": {"type": "enabled", "budget_tokens": 24_576}, "max_tokens": 24_576 + 16_384},
    ),
    ("other", {"max_tokens": 5000}, {"thinking": {"type": "enabled", "budget_tokens": 4999}, "max_tokens": 5000}),
    ("other", {"max_tokens": 500}, {"max_tokens": 500}),
    ("claude-opus-4-6", FORCED, {"output_config": {"effort": "high"}}),
    ("claude-opus-4-6", {**FORCED, "tool_choice": "auto"},
     {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    ("other", FORCED, {}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "fields", "meant"), THINKING)
def test_thinking(model: str, fields: dict[str, Any], meant: dict[str, Any]) -> None:
    """An effort is one where the model takes it, else a budget of tokens that fits; no temperature goes with it."""
    body = {"messages": [user()], "reasoning_effort": "high", "temperature": 0.5, **fields}
    sent = messages_body(body, model)
    found = {name: sent[name] for name in ("thinking", "output_config", "max_tokens") if name in sent}
    assert found == {"max_tokens": 16_384, **meant}
    assert ("temperature" in sent) == ("thinking" not in meant)


def test_no_thinking_after_unsigned_calls() -> None:
    """A model that is to think must be given the thoughts before its last calls: without them it is not asked to."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [user(), {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]
    assert "thinking" not in made(*said, reasoning_effort="high")
    assert "thinking" in made(*said, {"role": "assistant", "content": "So."}, user(), reasoning_effort="high")


def test_prefill_and_empty_texts() -> None:
    """What is refused there is not sent: empty texts, and white space at the end of a prefill."""
    sent = made(
        user("Hi"), {"role": "assistant", "content": ""}, user("there"), {"role": "assistant", "content": "So \n"}
    )
    assert sent["messages"] == [
        {"role": "user", "content": [text("Hi"), text("there")]},
        {"role": "assistant", "content": [text("So")]},
    ]


def test_structured_answers() -> None:
    """A schema is one there as well. JSON without a schema has no word, so the model is told."""
    schema = {"type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert made(user(), response_format=form)["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert "JSON" in made(user(), response_format={"type": "json_object"})["system"]


NAMES = [
    *("role", "content", "type", "text", "image_url", "url", "file", "file_data", "filename", "tool_calls", "function"),
    *("name", "arguments", "id", "tool_call_id", "function_call", "reasoning_details", "signature", "data"),
]
FIELDS = [
    *("tools", "tool_choice", "functions", "function_call", "stop", "user", "reasoning_effort", "response_format", "n"),
    *("max_tokens", "top_k", "temperature", "stream", "parallel_tool_calls"),
]
WORDS = st.text(min_size=1, max_size=5).filter(str.strip)
BLOCKS = st.lists(st.builds(text, WORDS), min_size=1, max_size=3)
CALLED = st.builds(
    lambda number, value: {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {"x": value}},
    st.integers(0, 3),
    st.integers() | WORDS,
)
SAID = st.lists(
    st.tuples(BLOCKS, BLOCKS | st.lists(CALLED, min_size=1, max_size=2)), min_size=1, max_size=4
)  # of the user, of the assistant


@given(SAID, WORDS)
def test_there_and_back(said: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]], system: str) -> None:
    """A Messages request as a chat request, and that as a Messages request, says the same to the model."""
    conversation = [
        {"role": role, "content": blocks}
        for asked, answered in said
        for role, blocks in (("user", asked), ("assistant", answered))
    ]
    source = {"model": "m", "max_tokens": 9, "system": system, "messages": [*conversation, user("End.")]}
    again = messages_body(chat_body(source, pass_over), "m")

    def flat(messages: list[dict[str, Any]]) -> list[tuple[str, str, list[Any]]]:
        """Give who says what, without the line ends between two blocks."""
        found = []
        for message in messages:
            blocks = message["content"] if isinstance(message["content"], list) else [text(message["content"])]
            words = "".join(block["text"] for block in blocks if block["type"] == "text").replace("\n", "")
            calls = [(block["id"], block["input"]) for block in blocks if block["type"] == "tool_use"]
            found.append((message["role"], words, calls))
        return found

    assert again["system"] == system
    assert flat(again["messages"]) == flat(source["messages"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["text", "tool", "assistant", "f", "", "auto"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.lists(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5), min_size=1, max_size=3)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5), MESSAGES)
def test_no_chat_request_breaks_it(fields: dict[str, Any], said: list[dict[str, Any]]) -> None:
    """Whatever a chat client sends and the gateway takes becomes a request, or another target is asked."""
    body = {"model": "m", **fields, "messages": [{"role": "user", **message} for message in said]}
    try:
        check_fields(body)
    except Rejected:
        return
    try:
        messages_body(body, "claude-opus-4-6")
    except UpstreamError as error:
        kind = error.kind
    else:
        kind = Kind.REFUSED
    assert kind is Kind.REFUSED
