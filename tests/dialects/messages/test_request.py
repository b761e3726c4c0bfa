"""A Messages request becomes a chat completion request, or is refused with the place of what cannot be said."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import Rejected
from server.core.openai.request import check_fields
from server.dialects.messages.fields import Unsaid, pass_over, refuse
from server.dialects.messages.generation import generation_of
from server.dialects.messages.request import chat_body
from server.dialects.messages.tool_names import long_names, short_name

PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
LONG = "mcp__a_server_with_a_very_long_name__and_a_tool_whose_name_is_even_longer_than_that"
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1f3;"}


def request(*content: Any, **fields: Any) -> dict[str, Any]:
    """Return a request whose user says `content`."""
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": list(content)}], **fields}


def messages(*said: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the chat messages of some messages."""
    body = chat_body({"model": "m", "max_tokens": 9, "messages": list(said), **fields})
    found: list[dict[str, Any]] = body["messages"]
    return found


def test_a_whole_request() -> None:
    """The golden transcript of a request with everything that an agent sends."""
    source = {
        "model": "claude-x",
        "max_tokens": 1000,
        "stream": True,
        "temperature": 0.5,
        "top_k": 40,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "thinking": {"type": "enabled", "budget_tokens": 8000},
        "system": [BILLING, {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tools": [
            {
                "name": "look",
                "description": "Looks.",
                "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
                "cache_control": {"type": "ephemeral"},
                "eager_input_streaming": True,
            }
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "context_management": {"edits": []},
        "messages": [
            {"role": "user", "content": "What is there?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Let me see.", "signature": ""},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "the gate"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "A lock."}]},
                    {"type": "text", "text": "And now?"},
                ],
            },
            {"role": "system", "content": "The gate is open."},
        ],
    }
    assert chat_body(source) == {
        "model": "claude-x",
        "max_tokens": 1000,
        "stream": True,
        "temperature": 0.5,
        "top_k": 40,
        "stop": ["END"],
        "user": "u1",
        "reasoning_effort": "medium",
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look",
                    "description": "Looks.",
                    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
                },
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is there?"},
            {
                "role": "assistant",
                "content": "I look.",
                "reasoning_content": "Let me see.",
                "tool_calls": [
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at":"the gate"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "A lock."},
            {"role": "user", "content": "And now?"},
            {"role": "system", "content": "The gate is open."},
        ],
    }


CONTENT: dict[str, tuple[Any, Any]] = {
    "a text": ("Hi", "Hi"),
    "texts": ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\n\nb"),
    "an image": (
        [{"type": "text", "text": "See:"}, {"type": "image", "source": PNG}],
        [{"type": "text", "text": "See:"}, PICTURE],
    ),
    "an image by its address": (
        [{"type": "image", "source": {"type": "url", "url": "http://a.example/b.png"}}],
        [{"type": "image_url", "image_url": {"url": "http://a.example/b.png"}}],
    ),
    "a PDF": (
        [{"type": "document", "title": "a.pdf", "source": {**PNG, "media_type": "application/pdf"}}],
        [
            {"type": "text", "text": "a.pdf"},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
        ],
    ),
    "a text document": (
        [
            {
                "type": "document",
                "context": "Old.",
                "source": {"type": "text", "media_type": "text/plain", "data": "Long ago."},
            }
        ],
        "Old.\n\nLong ago.",
    ),
    "a document of blocks": (
        [{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}}],
        "a",
    ),
    "a search result": (
        [
            {
                "type": "search_result",
                "title": "T",
                "source": "http://a.example",
                "content": [{"type": "text", "text": "found"}],
            }
        ],
        "T\nhttp://a.example\n\nfound",
    ),
}


@pytest.mark.parametrize(("said", "meant"), CONTENT.values(), ids=CONTENT.keys())
def test_content(said: Any, meant: Any) -> None:
    """What a user says in blocks is said in parts, or as one text."""
    assert messages({"role": "user", "content": said}) == [{"role": "user", "content": meant}]


RESULTS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "a text": ({"content": "done"}, [{"content": "done"}]),
    "nothing": ({}, [{"content": ""}]),
    "an error": ({"content": "no such file", "is_error": True}, [{"content": "Error: no such file"}]),
    "an error that says so": ({"content": "Error: none", "is_error": True}, [{"content": "Error: none"}]),
    "an image": (
        {"content": [{"type": "text", "text": "Shot:"}, {"type": "image", "source": PNG}]},
        [
            {"content": "Shot:"},
            {"role": "user", "content": [{"type": "text", "text": "The result of the tool call t1:"}, PICTURE]},
        ],
    ),
    "an image alone": (
        {"content": [{"type": "image", "source": PNG}]},
        [
            {"content": "(The result is in the next message.)"},
            {"role": "user", "content": [{"type": "text", "text": "The result of the tool call t1:"}, PICTURE]},
        ],
    ),
}


@pytest.mark.parametrize(("result", "meant"), RESULTS.values(), ids=RESULTS.keys())
def test_tool_results(result: dict[str, Any], meant: list[dict[str, Any]]) -> None:
    """A result is a message of the tool, which has text alone. Images follow in the user's."""
    block = {"type": "tool_result", "tool_use_id": "t1", **result}
    tool = {"role": "tool", "tool_call_id": "t1"}
    assert messages({"role": "user", "content": [block]}) == [{**tool, **meant[0]}, *meant[1:]]


def test_results_come_before_what_the_user_says() -> None:
    """All results follow their calls at once, and what else the message has comes after them."""
    blocks = [
        {"type": "tool_result", "tool_use_id": f"t{n}", "content": [{"type": "image", "source": PNG}]} for n in (1, 2)
    ]
    roles = [
        message["role"] for message in messages({"role": "user", "content": [*blocks, {"type": "text", "text": "?"}]})
    ]
    assert roles == ["tool", "tool", "user"]


def test_thoughts() -> None:
    """Thoughts of a chat upstream go back to it. Those that Anthropic signed or encrypted are for Anthropic."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    said = {"type": "text", "text": "Yes."}
    [message] = messages({"role": "assistant", "content": [thought, said]})
    assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    [message] = messages({"role": "assistant", "content": [{**thought, "signature": "s"}, hidden, said]})
    assert message == {"role": "assistant", "content": "Yes."}


def test_the_changing_block_does_not_reach_an_upstream() -> None:
    """Claude Code's billing block would make every prompt differ from its start."""
    rest = {"type": "text", "text": "Be brief."}
    said = {"role": "user", "content": "Hi"}
    assert messages(said, system=[BILLING, rest]) == messages(said, system=[rest])
    assert messages(said, system=[BILLING]) == [said]


CHOICES: list[tuple[dict[str, Any], Any]] = [
    ({"type": "auto"}, "auto"),
    ({"type": "any"}, "required"),
    ({"type": "none"}, "none"),
    ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
]


@pytest.mark.parametrize(("choice", "meant"), CHOICES)
def test_tool_choice(choice: dict[str, Any], meant: Any) -> None:
    """Each choice has its word. Without tools there is none: upstreams refuse it then."""
    tools = [{"type": "custom", "name": "look", "input_schema": {"type": "object"}, "strict": True}]
    body = chat_body(request({"type": "text", "text": "Hi"}, tools=tools, tool_choice=choice))
    assert body["tool_choice"] == meant
    assert body["tools"][0]["function"] == {"name": "look", "parameters": {"type": "object"}, "strict": True}
    assert "parallel_tool_calls" not in body
    assert "tool_choice" not in chat_body(request({"type": "text", "text": "Hi"}, tool_choice=choice))


EFFORTS: list[tuple[dict[str, Any], str | None]] = [
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, "medium"),
    ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "high"),
    ({"thinking": {"type": "adaptive"}}, None),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
    ({"output_config": {"effort": "low"}}, "low"),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, None),
    ({}, None),
]


@pytest.mark.parametrize(("fields", "effort"), EFFORTS)
def test_thinking(fields: dict[str, Any], effort: str | None) -> None:
    """A budget, or an effort, becomes an effort. Where nothing says how much, the upstream decides."""
    assert chat_body(request({"type": "text", "text": "Hi"}, **fields)).get("reasoning_effort") == effort


@pytest.mark.parametrize("fields", [{"output_config": {"format": 1}}, {"output_format": 1}])
def test_a_structured_answer(fields: dict[str, Any]) -> None:
    """A schema of the answer is one here as well, in its newer and in its older place."""
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "schema": schema}
    fields = json.loads(json.dumps(fields).replace("1", json.dumps(form)))
    made = chat_body(request({"type": "text", "text": "Hi"}, **fields))["response_format"]
    assert made == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def test_a_long_user_id() -> None:
    """OpenAI's `user` has at most 64 characters, and Claude Code's ids have more: they stay different."""
    users = [chat_body(request(metadata={"user_id": f"{'u' * 100}{n}"}))["user"] for n in (1, 2)]
    assert [len(user) for user in users] == [64, 64]
    assert users[0] != users[1]


def test_long_names_of_tools() -> None:
    """A name of more than 64 characters is shortened everywhere in the same way, and can be restored."""
    call = {"type": "tool_use", "id": "t", "name": LONG, "input": {}}
    body = chat_body(
        {
            "model": "m",
            "max_tokens": 9,
            "tools": [{"name": LONG, "input_schema": {}}, {"name": LONG + "2", "input_schema": {}}],
            "tool_choice": {"type": "tool", "name": LONG},
            "messages": [{"role": "assistant", "content": [call]}],
        }
    )
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert len(set(names)) == 2
    assert all(len(name) <= 64 for name in names)
    assert body["messages"][0]["tool_calls"][0]["function"]["name"] == names[0]
    assert body["tool_choice"]["function"]["name"] == names[0]
    assert long_names([LONG, "look"]) == {names[0]: LONG}
    assert short_name("look") == "look"


TEXT = {"type": "text", "text": "Hi"}
UNSAID: list[tuple[dict[str, Any], str]] = [
    (request(TEXT, tools=[{"type": "web_search_20250305", "name": "web_search"}]), "tools.0.type"),
    (request(TEXT, mcp_servers=[{"type": "url"}]), "mcp_servers"),
    (request(TEXT, container={"skills": []}), "container"),
    (request(TEXT, {"type": "container_upload", "file_id": "f"}), "messages.0.content.1.type"),
    (request({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages.0.content.0.source.type"),
    (
        request({"type": "document", "source": {"type": "url", "url": "http://a.example"}}),
        "messages.0.content.0.source.type",
    ),
    (
        {**request(), "messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
        "messages.0.content.0.type",
    ),
    (
        request({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "new"}]}),
        "messages.0.content.0.content.0.type",
    ),
]


@pytest.mark.parametrize(("source", "place"), UNSAID)
def test_what_cannot_be_said(source: dict[str, Any], place: str) -> None:
    """A chat upstream is not asked for half of it: 400 with the place. An upstream that speaks Messages gets it all."""
    with pytest.raises(Rejected) as caught:
        chat_body(source)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, place, "unsupported_value")
    assert caught.value.message.startswith(f"{place}: ")
    chat_body(source, pass_over)


INVALID: list[tuple[dict[str, Any], str]] = [
    ({}, "model"),
    ({"model": "m"}, "messages"),
    ({"model": "m", "messages": []}, "messages"),
    ({"model": "m", "messages": [1], "max_tokens": 1}, "messages.0"),
    ({"model": "m", "messages": [{"content": "x"}], "max_tokens": 1}, "messages.0.role"),
    ({"model": "m", "messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"model": "m", "messages": [{"role": "user"}]}, "messages.0.content"),
    ({"model": "a\nb", "messages": [{"role": "user", "content": "x"}]}, "model"),
    ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "max_tokens"),
    (request({"text": "no type"}), "messages.0.content.0.type"),
    (request({"type": "text"}), "messages.0.content.0.text"),
    (request({"type": "image"}), "messages.0.content.0.source"),
    (
        request({"type": "image", "source": {"type": "base64", "media_type": "a,b", "data": ""}}),
        "messages.0.content.0.source.media_type",
    ),
    (request({"type": "tool_result"}), "messages.0.content.0.tool_use_id"),
    (request(TEXT, max_tokens=0), "max_tokens"),
    (request(TEXT, max_tokens=True), "max_tokens"),
    (request(TEXT, max_tokens="9"), "max_tokens"),
    (request(TEXT, stream="yes"), "stream"),
    (request(TEXT, temperature="hot"), "temperature"),
    (request(TEXT, temperature=1.01), "temperature"),
    (request(TEXT, temperature=-0.1), "temperature"),
    (request(TEXT, temperature=float("nan")), "temperature"),
    (request(TEXT, temperature=True), "temperature"),
    (request(TEXT, top_p=2), "top_p"),
    (request(TEXT, top_p=-1), "top_p"),
    (request(TEXT, top_k=1.5), "top_k"),
    (request(TEXT, top_k=-1), "top_k"),
    (request(TEXT, stop_sequences=[1]), "stop_sequences.0"),
    (request(TEXT, stop_sequences="END"), "stop_sequences"),
    (request(TEXT, system=1), "system"),
    (request(TEXT, tools=[{"name": "a"}]), "tools.0.input_schema"),
    (request(TEXT, tools=[{"input_schema": {}}]), "tools.0.name"),
    (request(TEXT, tools=[{"name": "a", "input_schema": {}}], tool_choice={"type": "x"}), "tool_choice.type"),
    (request(TEXT, thinking={"type": "enabled", "budget_tokens": "x"}), "thinking.budget_tokens"),
    (request(TEXT, metadata={"user_id": 1}), "metadata.user_id"),
]


@pytest.mark.parametrize(("source", "place"), INVALID)
def test_what_is_wrong(source: dict[str, Any], place: str) -> None:
    """A missing or wrong value is a 400 with its place, whatever the upstream speaks."""
    for unsaid in (None, pass_over):
        with pytest.raises(Rejected) as caught:
            chat_body(source) if unsaid is None else chat_body(source, unsaid)
        assert (caught.value.status, caught.value.param) == (400, place)


SCALAR = st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALAR | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TYPES = [
    "text",
    "image",
    "document",
    "tool_use",
    "tool_result",
    "thinking",
    "redacted_thinking",
    "search_result",
    "tool_reference",
    "base64",
    "url",
    "content",
    "custom",
    "enabled",
    "json_schema",
    "any",
    "tool",
    "server_tool_use",
]
NAMES = [
    "text",
    "source",
    "content",
    "input",
    "id",
    "name",
    "tool_use_id",
    "thinking",
    "signature",
    "data",
    "media_type",
    "url",
    "title",
    "context",
    "is_error",
    "input_schema",
    "budget_tokens",
    "effort",
    "format",
    "schema",
    "user_id",
]
FIELDS = [
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "metadata",
    "stop_sequences",
    "temperature",
    "top_k",
    "stream",
    "max_tokens",
    "container",
    "mcp_servers",
    "n",
    "stream_options",
]
VALUE: st.SearchStrategy[Any] = st.deferred(lambda: JSON | OBJECT | st.lists(OBJECT, max_size=3))
OBJECT = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(TYPES) | JSON,
    st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=4),
)
ROLES = st.sampled_from(["user", "assistant", "system"]) | JSON
MESSAGE = st.builds(lambda role, content: {"role": role, "content": content}, ROLES, VALUE) | JSON
SOURCES = st.builds(
    lambda said, fields: {"model": "m", "max_tokens": 5, "messages": said, **fields},
    st.lists(MESSAGE, max_size=3) | JSON,
    st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=4),
)


@given(SOURCES, st.sampled_from([refuse, pass_over]))
def test_no_request_breaks_it(source: dict[str, Any], unsaid: Unsaid) -> None:
    """Whatever a request holds, it becomes a chat request that the gateway's own check takes, or a 400 with a place."""
    rejected: Rejected | None = None
    try:
        check_fields(dict(generation_of(source, unsaid, "cancel").body))
    except Rejected as error:
        rejected = error
    assert rejected is None or (rejected.status == 400 and rejected.param)
