"""A Responses request as the body of a chat completion.

Source: https://platform.openai.com/docs/api-reference/responses/create. Fields that are not named here go upstream as
they are. What no chat completion can say is refused, unless the upstream speaks Responses itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.core.errors import Rejected
from server.core.openai.request import MODEL, NUMBER, invalid
from server.dialects.responses.items import MAX_ITEMS, Messages, added_tools
from server.dialects.responses.tools import Tools, refused

MIN_OUTPUT_TOKENS = 1
MAX_TOP_LOGPROBS = 20
FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "input": ((str, list), "a string or an array"),
    "instructions": ((str,), "a string"),
    "previous_response_id": ((str,), "a string"),
    "stream": ((bool,), "a boolean"),
    "stream_options": ((dict,), "an object"),
    "background": ((bool,), "a boolean"),
    "store": ((bool,), "a boolean"),
    "metadata": ((dict,), "an object"),
    "include": ((list,), "an array"),
    "tools": ((list,), "an array"),
    "tool_choice": ((str, dict), "a string or an object"),
    "parallel_tool_calls": ((bool,), "a boolean"),
    "text": ((dict,), "an object"),
    "reasoning": ((dict,), "an object"),
    "max_output_tokens": ((int,), "an integer"),
    "max_tool_calls": ((int,), "an integer"),
    "temperature": (NUMBER, "a number"),
    "top_p": (NUMBER, "a number"),
    "presence_penalty": (NUMBER, "a number"),
    "frequency_penalty": (NUMBER, "a number"),
    "top_logprobs": ((int,), "an integer"),
    "truncation": ((str,), "a string"),
    "user": ((str,), "a string"),
    "safety_identifier": ((str,), "a string"),
    "prompt_cache_key": ((str,), "a string"),
    "service_tier": ((str,), "a string"),
    "seed": ((int,), "an integer"),
    "stop": ((str, list), "a string or an array"),
}
# Fields of chat completions that have another place here. An upstream would take them for its own.
MOVED = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": "include",
}
# What the gateway itself answers for, or what `chat_body` translates. None of it goes upstream under its own name.
OWN = frozenset({
    "model", "input", "instructions", "previous_response_id", "stream", "stream_options", "background", "store",
    "metadata", "include", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "max_output_tokens",
    "max_tool_calls", "top_logprobs", "truncation", "n",
    "client_metadata",  # Codex: for OpenAI's own servers
    "previous_items",
})  # fmt: skip
# The items of the responses that a request goes on from. The gateway puts them into the request that it logs, because
# a relay that takes the stream over cannot ask for them.
EARLIER = "previous_items"
# What a chat upstream does not have at all.
ELSEWHERE = ("conversation", "prompt", "context_management")
LOGPROBS = "message.output_text.logprobs"
# These ask for more about hosted tools, or for encrypted reasoning. Over a chat upstream there is none of it.
INCLUDES = frozenset({
    LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
    "web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
})  # fmt: skip
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512  # API reference


@dataclass(frozen=True, slots=True)
class Translation:
    """A request as a chat completion. `refusal`: what of it a chat upstream cannot be told; None: nothing."""

    body: dict[str, Any]
    refusal: Rejected | None


def chat_body(source: Mapping[str, Any]) -> Translation:
    """Translate a request.

    Raises:
        Rejected: 400, a field is missing, malformed or out of range.

    """
    check(source)
    given = source.get("input")
    items: list[Any] = [given] if isinstance(given, str) else list(given or ())
    tools = Tools(source.get("tools"))
    for path, listed in added_tools(items):
        tools.add(listed, path)
    messages = Messages(tools)
    if source.get("instructions"):
        messages.instruct(source["instructions"])
    for index, item in enumerate(source.get(EARLIER) or ()):
        messages.add(item, f"previous_response_id[{index}]")
    for index, item in enumerate(items):
        messages.add(item, f"input[{index}]" if isinstance(given, list) else "input")
    told = messages.take()
    if not told and messages.refusal is None and not source.get("prompt"):
        raise invalid("input", "a string, or an array with at least one message")
    body: dict[str, Any] = {"model": source["model"], "messages": told}
    functions, choice = tools.choice(source.get("tool_choice"))
    if functions:
        body["tools"] = functions
        if choice is not None:
            body["tool_choice"] = choice
        if source.get("parallel_tool_calls") is not None:
            body["parallel_tool_calls"] = source["parallel_tool_calls"]
    body |= _text_fields(source.get("text") or {})
    body |= _limits(source)
    body |= {
        name: value
        for name, value in source.items()
        if name not in OWN and name not in ELSEWHERE and (value is not None or name not in FIELDS)
    }
    body["stream"] = True  # always: only a stream can be recovered
    return Translation(body, tools.refusal or messages.refusal or _unsayable(source))


def check(source: Mapping[str, Any]) -> None:
    """Raise Rejected 400 if a field is missing, or has a wrong type or range."""
    model = source.get("model")
    if not isinstance(model, str) or not MODEL.fullmatch(model):
        raise invalid("model", "a string of 1 to 256 characters, none of them a control character")
    _check_fields(source)
    given = source.get("input")
    if given is None and not source.get("previous_response_id") and not source.get("prompt"):
        raise Rejected(400, "Missing required parameter: 'input'.", "missing_required_parameter", "input")
    if isinstance(given, list) and len(given) > MAX_ITEMS:
        raise Rejected(400, f"Invalid 'input': at most {MAX_ITEMS} items.", "array_above_max_length", "input")
    if source.get("n") not in (None, 1):
        raise invalid("n", "1: a response has one answer")
    _check_range(source, "max_output_tokens", MIN_OUTPUT_TOKENS, None)
    _check_range(source, "max_tool_calls", 1, None)
    _check_range(source, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if source.get("truncation") not in (None, "auto", "disabled"):
        raise invalid("truncation", "'auto' or 'disabled'")
    _check_metadata(source.get("metadata") or {})
    for index, name in enumerate(source.get("include") or ()):
        if not isinstance(name, str) or name not in INCLUDES:
            raise invalid(f"include[{index}]", f"one of {', '.join(sorted(INCLUDES))}")


def _check_fields(source: Mapping[str, Any]) -> None:
    for name, place in MOVED.items():
        if source.get(name) is not None:
            text = f"Unsupported parameter: '{name}'. In the Responses API it is '{place}'."
            raise Rejected(400, text, "unsupported_parameter", name)
    for name, (types, wanted) in FIELDS.items():
        value = source.get(name)
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise invalid(name, wanted)


def _check_range(source: Mapping[str, Any], name: str, least: int, most: int | None) -> None:
    value = source.get(name)
    if value is not None and (value < least or (most is not None and value > most)):
        raise invalid(name, f"at least {least}" if most is None else f"between {least} and {most}")


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > METADATA_PAIRS:
        raise invalid("metadata", f"an object of at most {METADATA_PAIRS} pairs")
    for key, value in metadata.items():
        if len(key) > METADATA_KEY:
            raise invalid("metadata", f"an object with keys of at most {METADATA_KEY} characters")
        if not isinstance(value, str) or len(value) > METADATA_VALUE:
            raise invalid(f"metadata.{key}", f"a string of at most {METADATA_VALUE} characters")


def _text_fields(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields for `text`: the form of the answer, and how much it says."""
    fields: dict[str, Any] = {}
    verbosity, form = text.get("verbosity"), text.get("format")
    if not isinstance(verbosity, str | None):
        raise invalid("text.verbosity", "a string")
    if verbosity is not None:
        fields["verbosity"] = verbosity
    if form is None:
        return fields
    if not isinstance(form, dict):
        raise invalid("text.format", "an object")
    match form.get("type"):
        case "text":
            pass
        case "json_object":
            fields["response_format"] = {"type": "json_object"}
        case "json_schema":
            _check_schema(form)
            schema = {name: value for name, value in form.items() if name != "type" and value is not None}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            raise invalid("text.format.type", "'text', 'json_object' or 'json_schema'")
    return fields


def _check_schema(form: Mapping[str, Any]) -> None:
    if not isinstance(form.get("name"), str) or not form["name"]:
        raise invalid("text.format.name", "a non-empty string")
    if not isinstance(form.get("schema"), dict):
        raise invalid("text.format.schema", "a JSON schema")
    if not isinstance(form.get("description"), str | None):
        raise invalid("text.format.description", "a string")
    if not isinstance(form.get("strict"), bool | None):
        raise invalid("text.format.strict", "a boolean")


def _limits(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields for the length of the answer, its reasoning and its probabilities."""
    fields: dict[str, Any] = {}
    if source.get("max_output_tokens") is not None:
        fields["max_completion_tokens"] = source["max_output_tokens"]
    reasoning = source.get("reasoning") or {}
    for name in ("effort", "summary", "generate_summary"):
        if not isinstance(reasoning.get(name), str | None):
            raise invalid(f"reasoning.{name}", "a string")
    if reasoning.get("effort") is not None:
        fields["reasoning_effort"] = reasoning["effort"]
    if asks_logprobs(source):
        fields["logprobs"] = True
        if source.get("top_logprobs"):
            fields["top_logprobs"] = source["top_logprobs"]
    return fields


def asks_logprobs(source: Mapping[str, Any]) -> bool:
    """Whether a request asks for the probabilities of tokens."""
    return LOGPROBS in (source.get("include") or ()) or bool(source.get("top_logprobs"))


def _unsayable(source: Mapping[str, Any]) -> Rejected | None:
    """Return the refusal of a field that chat completions do not have, or None."""
    for name in ELSEWHERE:
        if source.get(name):
            return refused(name, "this field")
    if source.get("truncation") == "auto":
        return refused("truncation", "'auto'")
    for name, value in (source.get("reasoning") or {}).items():
        # A summary is a wish. Without one, the reasoning itself is shown if the upstream shows it.
        if name not in ("effort", "summary", "generate_summary") and value not in (None, "auto", "standard"):
            return refused(f"reasoning.{name}", f"{value!r}")
    return None
