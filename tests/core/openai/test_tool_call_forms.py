"""How upstreams really stream tool calls. Each form has its source, and what it means."""

from typing import Any

import pytest

from server.core.openai.tool_calls import ToolCalls

Pieces = list[dict[str, Any]]


def p(index: Any = ..., id: Any = ..., name: Any = ..., arguments: Any = ...) -> dict[str, Any]:  # noqa: A002 — the wire's word
    """Give a piece with the fields that are given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not ...}
    head = {key: value for key, value in (("index", index), ("id", id)) if value is not ...}
    return {**head, "type": "function", "function": function}


# The form, its deltas, and the calls: (name, arguments), with the id if the upstream gave one.
FORMS: list[tuple[str, list[Pieces], list[tuple[Any, ...]]]] = [
    (
        "OpenAI (API reference: chat completion chunks; also vLLM, llama.cpp, DeepSeek)",
        [
            [p(0, "a", "f", "")], [p(0, arguments='{"x":')],
            [p(1, "b", "g", "")], [p(0, arguments="1}")], [p(1, arguments="{}")],
        ],
        [("f", {"x": 1}, "a"), ("g", {}, "b")],
    ),
    (
        "nulls in later pieces (github.com/sgl-project/sglang/issues/4700)",
        [[p(0, "a", "f", "")], [{"index": 0, "id": None, "type": None, "function": {"arguments": "{}", "name": None}}]],
        [("f", {}, "a")],
    ),
    (
        'an empty text for "no name" (github.com/sgl-project/sglang/issues/4700)',
        [[p(0, "a", "f", "")], [p(0, "", "", "{}")]],
        [("f", {}, "a")],
    ),
    (
        "a new id in each delta (github.com/InternLM/lmdeploy/issues/3412)",
        [
            [p(0, "chatcmpl-tool-1", "f", "")],
            [p(0, "chatcmpl-tool-2", None, '{"x":')],
            [p(0, "chatcmpl-tool-3", None, "1}")],
            [p(0, "chatcmpl-tool-4", None, "")],
        ],
        [("f", {"x": 1}, "chatcmpl-tool-1")],
    ),
    (
        "the first delta has one id, all others another (github.com/poolsideai/pool/issues/9)",
        [[p(0, "a", "f", "")], [p(0, "b", None, '{"x":')], [p(0, "b", None, "1}")]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "a new id and the name in each delta (github.com/BerriAI/litellm/pull/28223, OCI)",
        [[p(0, "a", "f", '{"x":')], [p(0, "b", "f", "1")], [p(0, "c", "f", "}")]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "index 0 for every call (github.com/vercel/ai/issues/14277, github.com/ollama/ollama/issues/15457)",
        [[p(0, "a", "f", '{"x":1}')], [p(0, "b", "f", '{"x":2}')], [p(0, "c", "g", "{}")]],
        [("f", {"x": 1}, "a"), ("f", {"x": 2}, "b"), ("g", {}, "c")],
    ),
    (
        "index 0 for every call, with braces in a text",
        [[p(0, "a", "f", '{"x":"{{"}')], [p(0, "b", "f", '{"x":"}"}')]],
        [("f", {"x": "{{"}, "a"), ("f", {"x": "}"}, "b")],
    ),
    (
        "index 0 for every call, in pieces (github.com/LibreChat-AI/agents/pull/260)",
        [[p(0, "a", "f", "")], [p(0, arguments='{"x":1}')], [p(0, "b", "f", "")], [p(0, arguments='{"x":2}')]],
        [("f", {"x": 1}, "a"), ("f", {"x": 2}, "b")],
    ),
    (
        "index 0 for every call, all in one delta (github.com/ollama/ollama/issues/15457)",
        [[p(0, "a", "f", '{"x":1}'), p(0, "b", "f", '{"x":2}')]],
        [("f", {"x": 1}, "a"), ("f", {"x": 2}, "b")],
    ),
    (
        "index 0 for every call, the same id in each of its pieces (Grok; github.com/oracle/langchain-oracle/pull/108)",
        [[p(0, "a", "f", '{"x"')], [p(0, "a", "f", ":1}")], [p(0, "b", "f", "{")], [p(0, "b", "f", "}")]],
        [("f", {"x": 1}, "a"), ("f", {}, "b")],
    ),
    (
        "no index, whole calls (Ollama, github.com/ollama/ollama/issues/7881; Gemini, openai/openai-python #2806)",
        [[p(id="a", name="f", arguments='{"x":1}')], [p(id="b", name="f", arguments='{"x":2}')]],
        [("f", {"x": 1}, "a"), ("f", {"x": 2}, "b")],
    ),
    (
        "no index, whole calls in one delta (SambaNova; github.com/vercel/ai/issues/7238)",
        [[p(id="a", name="f", arguments="{}"), p(id="b", name="f", arguments="{}")]],
        [("f", {}, "a"), ("f", {}, "b")],
    ),
    (
        "no index, in pieces (github.com/SamSaffron/term-llm/pull/314)",
        [
            [p(id="a", name="f", arguments="")], [p(arguments='{"x":')], [p(arguments="1}")],
            [p(id="b", name="g", arguments="")], [p(arguments="{}")],
        ],
        [("f", {"x": 1}, "a"), ("g", {}, "b")],
    ),
    (
        "no index, several calls by their place in the delta (github.com/SamSaffron/term-llm/pull/314)",
        [
            [p(id="a", name="f", arguments=""), p(id="b", name="g", arguments="")],
            [p(arguments='{"x":'), p(arguments='{"y":')],
            [p(arguments="1}"), p(arguments="2}")],
        ],
        [("f", {"x": 1}, "a"), ("g", {"y": 2}, "b")],
    ),
    (
        "no index, several calls by their ids (github.com/vercel/ai/pull/15879)",
        [
            [p(id="a", name="f", arguments="{")], [p(id="b", name="g", arguments='{"y":')],
            [p(id="a", arguments="}")], [p(id="b", arguments="2}")],
        ],
        [("f", {}, "a"), ("g", {"y": 2}, "b")],
    ),
    (
        "no index and no id, whole calls",
        [[p(name="f", arguments='{"x":1}')], [p(name="f", arguments='{"x":2}')], [p(name="g", arguments="")]],
        [("f", {"x": 1}), ("f", {"x": 2}), ("g", {})],
    ),
    (
        "no index and no id, whole calls in one delta",
        [[p(name="f", arguments={"x": 1}), p(name="f", arguments={"x": 2})]],
        [("f", {"x": 1}), ("f", {"x": 2})],
    ),
    (
        "index null (github.com/EricLBuehler/mistral.rs/pull/1507)",
        [[p(None, "a", "f", "")], [p(None, arguments="{}")], [p(None, "b", "g", "{}")]],
        [("f", {}, "a"), ("g", {}, "b")],
    ),
    (
        "an index from the second piece on (github.com/SamSaffron/term-llm/pull/314)",
        [[p(id="a", name="f", arguments="")], [p(0, arguments='{"x":1}')], [p(1, "b", "g", "{}")]],
        [("f", {"x": 1}, "a"), ("g", {}, "b")],
    ),
    (
        "no index from the second piece on (github.com/openai/openai-python/pull/3246)",
        [[p(0, "a", "f", "")], [p(arguments="{}")], [p(1, "b", "g", "")], [p(arguments='{"y":2}')]],
        [("f", {}, "a"), ("g", {"y": 2}, "b")],
    ),
    (
        "the index as a text",
        [[p("0", "a", "f", "")], [p("1", "b", "g", "")], [p("0", arguments='{"x":1}')], [p("1", arguments='{"y":2}')]],
        [("f", {"x": 1}, "a"), ("g", {"y": 2}, "b")],
    ),
    (
        "the index as a text that is no number",
        [[p("b", name="f", arguments="")], [p("a", name="g")], [p("b", arguments='{"x":1}')], [p("a", arguments="{}")]],
        [("f", {"x": 1}), ("g", {})],
    ),
    (
        "the index as a float (proxies in languages whose numbers are floats)",
        [[p(1.0, "b", "g", "{")], [p(0.0, "a", "f", "{}")], [p(1.0, arguments="}")]],
        [("f", {}, "a"), ("g", {}, "b")],
    ),
    (
        "the index now as a number, now as a text",
        [[p(0, "a", "f", "{")], [p(1, "b", "g", "{")], [p("0", arguments="}")], [p("1", arguments="}")]],
        [("f", {}, "a"), ("g", {}, "b")],
    ),
    (
        "the first index is 1 (litellm after a reasoning item; github.com/pipecat-ai/pipecat/issues/4987)",
        [[p(1, "a", "f", "")], [p(1, arguments="{}")], [p(2, "b", "g", "{}")]],
        [("f", {}, "a"), ("g", {}, "b")],
    ),
    (
        "no id at all (github.com/continuedev/continue/issues/13225, gpt-oss on Ollama)",
        [[p(0, name="f", arguments="{")], [p(0, arguments="}")], [p(1, "", "g", "{}")]],
        [("f", {}), ("g", {})],
    ),
    (
        "the id only in the last delta",
        [[p(0, name="f", arguments="{")], [p(0, arguments='"x":1')], [p(0, "a", None, "}")]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "id and name in separate deltas (github.com/pipecat-ai/pipecat/issues/4987)",
        [[p(0, "a")], [p(0, name="f")], [p(0, arguments="{}")]],
        [("f", {}, "a")],
    ),
    (
        "id and arguments before the name (github.com/vercel/ai/issues/14722)",
        [[p(0, "a", None, '{"x":')], [p(0, None, "f", "1}")]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "the name in each delta (github.com/NousResearch/hermes-agent/issues/8259, MiniMax at NVIDIA NIM)",
        [[p(0, "a", "f", "")], [p(0, None, "f", '{"x":')], [p(0, None, "f", "1}")], [p(0, None, "f", "")]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "id and name in each delta (github.com/1CatAI/1Cat-vLLM/issues/240)",
        [[p(0, "a", "f", "{")], [p(0, "a", "f", "}")], [p(0, "a", "f", "")]],
        [("f", {}, "a")],
    ),
    (
        "the name in pieces (github.com/NVIDIA-NeMo/Switchyard/pull/785)",
        [[p(0, "a", "get_", "")], [p(0, None, "weather", "")], [p(0, arguments="{}")]],
        [("get_weather", {}, "a")],
    ),
    (
        "all of the name so far in each delta",
        [[p(0, "a", "get_")], [p(0, "a", "get_weather")], [p(0, "a", "get_weather", "{}")]],
        [("get_weather", {}, "a")],
    ),
    (
        "arguments as an object (github.com/ollama/ollama, api/types.go: ToolCallFunctionArguments)",
        [[p(0, "a", "f", {"x": 1})], [p(1, "b", "g", {})]],
        [("f", {"x": 1}, "a"), ("g", {}, "b")],
    ),
    (
        "no arguments: an empty text (github.com/vercel/ai/issues/6687)",
        [[p(0, "a", "f", "")]],
        [("f", {}, "a")],
    ),
    (
        "no arguments: null (github.com/pipecat-ai/pipecat/pull/4060)",
        [[p(0, "a", "f", None)]],
        [("f", {}, "a")],
    ),
    ("no arguments: the field is missing", [[p(0, "a", "f")]], [("f", {}, "a")]),
    ("no arguments: the text null", [[p(0, "a", "f", "null")]], [("f", {}, "a")]),
    (
        "an empty object before the arguments (github.com/BerriAI/litellm/issues/4537, Anthropic)",
        [[p(0, "a", "f", "{}")], [p(0, arguments='{"x":')], [p(0, arguments="1}")]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "an empty call between two (github.com/earendil-works/pi/issues/4078, SGLang with Qwen)",
        [[p(0, "a", "f", "{}")], [p(1, "", "", "")], [p(2, "b", "g", "{}")]],
        [("f", {}, "a"), ("g", {}, "b")],
    ),
    (
        "an order by index, not by arrival (github.com/BerriAI/litellm/issues/39796: parallel calls)",
        [[p(2, "c", "h", "{}")], [p(0, "a", "f", "{}")], [p(1, "b", "g", "{}")]],
        [("f", {}, "a"), ("g", {}, "b"), ("h", {}, "c")],
    ),
    (
        "one id for two calls of different indexes",
        [[p(0, "a", "f", "{}")], [p(1, "a", "g", "{}")]],
        [("f", {}, "a"), ("g", {}, "a_1")],
    ),
    (
        "no `function` around name and arguments (github.com/NVIDIA-NeMo/Guardrails/pull/1942)",
        [[{"id": "a", "name": "f", "arguments": {"x": 1}}]],
        [("f", {"x": 1}, "a")],
    ),
    (
        "a custom tool (API reference: custom tool calls)",
        [[{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}],
         [{"index": 0, "custom": {"input": '{"x":1}'}}]],
        [("f", {"x": 1}, "a")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("deltas", "calls"), [form[1:] for form in FORMS], ids=[form[0][:60] for form in FORMS])
def test_form(deltas: list[Pieces], calls: list[tuple[Any, ...]]) -> None:
    """The form gives these calls, whole, each with the upstream's id or one of its own."""
    made = ToolCalls()
    for pieces in deltas:
        made.feed({"tool_calls": pieces})
    taken = made.take(whole=True)
    assert [(call.name, call.arguments) for call in taken] == [call[:2] for call in calls]
    assert not any(call.incomplete or call.error for call in taken)
    assert all(call[2:] in ((), (one.id,)) for call, one in zip(calls, taken, strict=True))
    assert len({call.id for call in taken}) == len(taken)
