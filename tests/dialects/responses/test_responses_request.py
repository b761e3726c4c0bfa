"""A Responses request as a chat completion: what it becomes, what is refused, and that bad input is told. Pure."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import Rejected
from server.dialects.responses.request import INCLUDES, chat_body
from server.dialects.responses.tools import chat_name

USER = {"role": "user", "content": "Hi."}


def body(**fields: Any) -> dict[str, Any]:
    """Give the chat request for a request with these fields, which can be said."""
    translation = chat_body({"model": "m", "input": "Hi.", **fields})
    assert translation.refusal is None, translation.refusal
    return translation.body


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    """Give the messages for these items."""
    found: list[dict[str, Any]] = body(input=list(items), **fields)["messages"]
    return found


def user(*parts: Any) -> dict[str, Any]:
    """Give a message of the user with these parts."""
    return {"role": "user", "content": list(parts)}


def test_the_least_request() -> None:
    """A text is the user's message. The upstream is asked for a stream, whatever the client asked for."""
    assert body() == body(stream=False) == {"model": "m", "messages": [USER], "stream": True}


def test_fields() -> None:
    """Fields get their names in a chat completion. Those that nobody knows go through, the gateway's own do not."""
    found = body(
        instructions="Be brief.", max_output_tokens=5, reasoning={"effort": "low", "summary": "auto"}, top_p=0.5,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
              "verbosity": "low"},
        metadata={"a": "b"}, store=True, background=False, include=["reasoning.encrypted_content"], user="u",
        prompt_cache_key="k", client_metadata={"x": 1}, temperature=None, top_k=3, truncation="disabled",
        stream_options={"include_obfuscation": False}, parallel_tool_calls=True, tool_choice="auto", top_logprobs=2,
    )  # fmt: skip
    assert found == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "max_completion_tokens": 5,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "top_p": 0.5,
        "user": "u",
        "prompt_cache_key": "k",
        "top_k": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
    }  # fmt: skip


def test_roles() -> None:
    """The system's messages at the start are one, because many templates take one only. Later ones stay in place."""
    parts = [{"type": "input_text", "text": "B"}, {"type": "input_text", "text": "C"}]
    found = messages(
        {"role": "developer", "content": parts}, USER, {"role": "system", "content": "D"}, instructions="A"
    )
    assert found == [{"role": "system", "content": "A\n\nB\n\nC"}, USER, {"role": "system", "content": "D"}]


def test_parts() -> None:
    """Images, files and sounds become parts; a single text becomes a string."""
    url = "data:image/png;base64,AA=="
    (found,) = messages(
        {
            "type": "message", "id": "msg_1", "role": "user", "content": [
                {"type": "input_text", "text": "See."},
                {"type": "input_image", "image_url": url, "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ],
        }
    )  # fmt: skip
    assert found["content"] == [
        {"type": "text", "text": "See."},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]


def test_a_turn_with_calls() -> None:
    """An answer's text and its calls are one message; reasoning goes with it in the current turn, and not later."""
    reasoning = {
        "type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e",
        "content": [{"type": "reasoning_text", "text": "I think."}],
    }  # fmt: skip
    turn = [
        reasoning,
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": 'a"b'},
        {"type": "function_call_output", "call_id": "c1", "output": "seen"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
    ]  # fmt: skip
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "patch", "arguments": '{"input":"a\\"b"}'}},
    ]
    answer = {"role": "assistant", "content": "I look.", "tool_calls": calls}
    outputs = [
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "tool", "tool_call_id": "c2", "content": "done"},
    ]
    assert messages(USER, *turn) == [USER, {**answer, "reasoning_content": "I think."}, *outputs]
    assert messages(USER, *turn, USER) == [USER, answer, *outputs, USER]


def test_images_of_the_assistant_go_back() -> None:
    """An image that was made comes back as one of the user's, whatever its format. One that failed says nothing."""
    made = [{"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": text} for text in
            ("iVBORw0=", "/9j/AA==", None)]  # fmt: skip
    _, *found = messages(USER, *made)
    urls = [message["content"][0]["image_url"]["url"] for message in found]
    assert urls == ["data:image/png;base64,iVBORw0=", "data:image/jpeg;base64,/9j/AA=="]
    assert [message["role"] for message in found] == ["user", "user"]


def test_reasoning_without_an_answer() -> None:
    """Reasoning of an answer that broke off belongs to no answer of a later turn."""
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "I thought."}]}
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    found = messages(USER, reasoning, USER, call)
    assert "reasoning_content" not in found[-1]


def test_refusals_go_back() -> None:
    """What the assistant refused is said back as a refusal."""
    found = messages(USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, USER)
    assert found[1] == {"role": "assistant", "content": None, "refusal": "No."}


LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": None, "description": "Looks."}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
PATCH = {"type": "custom", "name": "patch", "description": "Patches.", "format": GRAMMAR}
FILES = {"type": "namespace", "name": "files", "description": "Files.", "tools": [{**LOOK, "strict": False}]}


def test_tools() -> None:
    """Functions, custom tools and namespaces become functions."""
    functions = [tool["function"] for tool in body(tools=[LOOK, PATCH, FILES])["tools"]]
    look = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    assert functions[0] == look
    assert functions[1]["parameters"]["required"] == ["input"]
    assert functions[1]["description"].startswith("Patches.")
    assert "start: /x/" in functions[1]["description"]
    assert functions[2] == {**look, "name": "files__look", "description": "Files.\n\nLooks.", "strict": False}


def test_tools_of_an_item() -> None:
    """Tools that an item adds are offered, too; a call in the history has the name that its tool has now."""
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [FILES]},
        USER,
        {"type": "function_call", "call_id": "c", "name": "look", "namespace": "files", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": ""},
    ]
    found = body(input=items)
    assert [tool["function"]["name"] for tool in found["tools"]] == ["files__look"]
    assert found["messages"][1]["tool_calls"][0]["function"]["name"] == "files__look"


@pytest.mark.parametrize(
    ("choice", "names", "shown"),
    [
        ("auto", ["look", "patch", "files__look"], "auto"),
        ("required", ["look", "patch", "files__look"], "required"),
        (None, ["look", "patch", "files__look"], None),
        ({"type": "function", "name": "look"}, ["look", "patch", "files__look"], "look"),
        ({"type": "custom", "name": "patch"}, ["look", "patch", "files__look"], "patch"),
        ({"type": "allowed_tools", "mode": "required", "tools": [PATCH]}, ["patch"], "required"),
    ],
)
def test_tool_choice(choice: Any, names: list[str], shown: Any) -> None:
    """A choice is one of a chat completion; the tools that are not allowed are not offered."""
    found = body(tools=[LOOK, PATCH, FILES], tool_choice=choice)
    assert [tool["function"]["name"] for tool in found["tools"]] == names
    choice = found.get("tool_choice")
    assert (choice["function"]["name"] if isinstance(choice, dict) else choice) == shown


def test_long_names() -> None:
    """Names that do not fit are cut, and differ all the same."""
    tools = [{**LOOK, "name": "x" * 60 + end} for end in "ab"]
    names = [tool["function"]["name"] for tool in body(tools=[{**FILES, "tools": tools}])["tools"]]
    assert len(set(names)) == 2
    assert all(len(name) <= 64 for name in names)
    both = [{**LOOK, "name": chat_name("look", "files")}, FILES]
    assert len({tool["function"]["name"] for tool in body(tools=both)["tools"]}) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [LOOK, {"type": "web_search"}]}, "tools[1]"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0]"),
        ({"tools": [LOOK], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": [USER, {"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "input[1].type"),
        ({"input": [USER, {"type": "item_reference", "id": "msg_1"}]}, "input[1].id"),
        ({"input": [USER, {"id": "msg_1"}]}, "input[1].id"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "u"}]}]},
         "input[0].content"),
        ({"input": [USER, {"type": "nobody_knows"}]}, "input[1].type"),
        ({"input": [user({"type": "input_image", "file_id": "f"})]}, "input[0].content[0].file_id"),
        ({"input": [user({"type": "input_file", "file_url": "u"})]}, "input[0].content[0].file_url"),
        ({"input": [user({"type": "odd"})]}, "input[0].content[0].type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"prompt": {"id": "p"}, "input": None}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ],
)  # fmt: skip
def test_what_a_chat_upstream_cannot_be_told(fields: dict[str, Any], param: str) -> None:
    """It is named. Whether it is refused depends on the upstream."""
    refusal = chat_body({"model": "m", "input": "Hi.", **fields}).refusal
    assert refusal is not None
    assert (refusal.status, refusal.param) == (400, param)


def test_the_search_that_nobody_asked_for() -> None:
    """Codex offers a search of the web in every request. That is no reason to refuse it."""
    for access in (False, True):
        assert "tools" not in body(tools=[{"type": "web_search", "external_web_access": access}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"content": "Hi."}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "Hi."}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [3]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "x", "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "image_generation_call", "result": 3}]}, "input[0].result"),
        ({"messages": [USER]}, "messages"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 2}, "n"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"include": ["x"]}, "include[0]"),
        ({"include": [{}]}, "include[0]"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "x"}, "truncation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": "yes"}}},
            "text.format.strict",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "description": 3}}},
            "text.format.description",
        ),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"reasoning": {"summary": 3}}, "reasoning.summary"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**LOOK, "parameters": []}]}, "tools[0].parameters"),
        ({"tools": [{**FILES, "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tools": [LOOK], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_bad_input(fields: dict[str, Any], param: str) -> None:
    """Each bad value is named."""
    with pytest.raises(Rejected) as error:
        chat_body({"model": "m", "input": "Hi.", **fields})
    assert (error.value.status, error.value.param) == (400, param)


NAMES = [
    "type",
    "role",
    "content",
    "text",
    "input",
    "output",
    "call_id",
    "name",
    "arguments",
    "namespace",
    "id",
    "summary",
    "image_url",
    "detail",
    "file_id",
    "file_data",
    "refusal",
    "tools",
    "tool_choice",
    "parameters",
    "strict",
    "description",
    "format",
    "syntax",
    "definition",
    "schema",
    "mode",
    "effort",
    "reasoning",
    "include",
    "instructions",
    "metadata",
]
WORDS = [
    "message",
    "user",
    "assistant",
    "system",
    "developer",
    "input_text",
    "output_text",
    "input_image",
    "input_file",
    "input_audio",
    "refusal",
    "function_call",
    "custom_tool_call",
    "function_call_output",
    "custom_tool_call_output",
    "reasoning",
    "reasoning_text",
    "additional_tools",
    "item_reference",
    "function",
    "custom",
    "namespace",
    "web_search",
    "allowed_tools",
    "grammar",
    "json_schema",
    "auto",
    "none",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(WORDS) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "previous_response_id",
    "max_output_tokens", "top_logprobs", "truncation", "parallel_tool_calls", "conversation", "prompt", "n", "stream",
])  # fmt: skip


@given(st.dictionaries(FIELDS, VALUES, max_size=5), st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=3))
def test_any_request(fields: dict[str, Any], items: list[Any], tools: list[Any]) -> None:
    """Whatever a request says, it becomes a chat request that can be written, or is refused with 400 and a name."""
    for source in (fields, {"input": items, "tools": tools, **fields}, {**fields, "input": items, "tools": tools}):
        try:
            found = chat_body({"model": "m", "input": "Hi.", **source})
        except Rejected as error:
            refusal = error
            assert (refusal.status, bool(refusal.param)) == (400, True)
        else:
            orjson.dumps(found.body)
            assert found.refusal is not None or found.body["messages"]


def test_everything_that_can_be_included() -> None:
    """Clients ask for what hosted tools would add, though they have none."""
    assert body(include=sorted(INCLUDES))["logprobs"] is True
