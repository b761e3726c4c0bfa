"""From a chat completion request to a Messages request, for a chat client whose upstream speaks Messages.

Sources: https://platform.claude.com/docs/en/api/messages, https://platform.openai.com/docs/api-reference/chat/create.
What has no counterpart and only shapes the sampling (`seed`, penalties, `logit_bias`, `logprobs`) is passed over, as
Anthropic's own chat endpoint does. What would change the answer's meaning is refused, so that another target may be
asked.
"""

import re
from collections.abc import Mapping
from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.wide_json import loads_text

DEFAULT_MAX_TOKENS = 16_384  # the field is required there; every model of 2025 and later takes this much
# What an effort means to a model that is given a budget of tokens. It must be at least 1,024, and less than max_tokens.
BUDGETS = {"low": 2_048, "medium": 8_192, "high": 24_576, "xhigh": 32_768}
ANSWER = 4_096  # tokens that are left for the answer behind the thoughts
# Models that think by themselves and are given an effort. Older ones, and what only speaks like them, get a budget.
ADAPTIVE = re.compile(r"claude-(?:opus|sonnet|haiku|fable|mythos)-(?:4-(?:[6-9]|1[0-9])(?![0-9])|[5-9])")
CHOICES = {"auto": "auto", "required": "any", "none": "none"}
CALL_ID = re.compile(r"[^a-zA-Z0-9_-]")  # characters that Anthropic's ids of calls do not have
JSON_ONLY = "Answer with one JSON object and nothing else."
DATA_URL = re.compile(r"data:([^;,]+)(?:;[^,]*)?;base64,(.*)", re.DOTALL)

Object = Mapping[str, Any]
Block = dict[str, Any]


def messages_body(body: Object, model: str) -> dict[str, Any]:
    """Return the body of a Messages request. Raises UpstreamError if it cannot say what the client asks for."""
    if (body.get("n") or 1) > 1:
        raise _refused("n")
    system, messages = _conversation(body.get("messages") or [])
    made: dict[str, Any] = {"model": model, "messages": messages}
    made["max_tokens"] = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    if body.get("stream") is not None:
        made["stream"] = body["stream"]
    made |= _sampling(body) | _tools(body)
    made |= _thinking(body, made, model)  # by what has been made
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if isinstance(form, dict) and kind == "json_schema":
        schema = _object(form.get("json_schema")).get("schema")
        made["output_config"] = {**made.get("output_config", {}), "format": {"type": kind, "schema": schema}}
    elif kind == "json_object":
        system.append(JSON_ONLY)
    if system:
        made["system"] = "\n\n".join(system)
    if "thinking" in made:
        made.pop("temperature", None)  # thinking has a temperature of its own
        made.pop("top_k", None)
    return made


def _sampling(body: Object) -> dict[str, Any]:
    fields = {name: body[name] for name in ("top_p", "top_k") if body.get(name) is not None}
    if (temperature := body.get("temperature")) is not None:
        fields["temperature"] = min(temperature, 1)
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    if kept := [stop for stop in stops if isinstance(stop, str) and stop.strip()]:
        fields["stop_sequences"] = kept
    if user := body.get("user"):
        fields["metadata"] = {"user_id": user}
    return fields


def _thinking(body: Object, made: Object, model: str) -> dict[str, Any]:
    """Return how the model is to think. A call that it made without signed thoughts forbids it to."""
    effort = body.get("reasoning_effort")
    if not isinstance(effort, str) or effort not in BUDGETS:
        return {}
    # "Thinking may not be enabled when tool_choice forces tool use."
    forced = _object(made.get("tool_choice")).get("type") in ("any", "tool")
    if ADAPTIVE.search(model):
        fields: dict[str, Any] = {"output_config": {"effort": "high" if effort == "xhigh" else effort}}
        return fields if forced else {"thinking": {"type": "adaptive"}, **fields}
    if forced or _called_without_thoughts(made["messages"]):
        return {}
    budget = min(BUDGETS[effort], made["max_tokens"] - 1)
    if body.get("max_completion_tokens") is None and body.get("max_tokens") is None:
        budget = BUDGETS[effort]
        return {"thinking": {"type": "enabled", "budget_tokens": budget}, "max_tokens": budget + DEFAULT_MAX_TOKENS}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= 1_024 else {}


def _called_without_thoughts(messages: list[dict[str, Any]]) -> bool:
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    kinds = [block["type"] for block in last["content"]] if last else []
    return "tool_use" in kinds and not kinds[0].endswith("thinking")


# --- messages --------------------------------------------------------------------------------------------------------


def _conversation(messages: list[Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the texts of the system prompt, and the messages, of which no two in a row have the same role."""
    system: list[str] = []
    made: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role, place = message.get("role"), f"messages[{index}]"
        if role in ("system", "developer"):
            system += [block["text"] for block in _blocks(message.get("content"), place)]
            continue
        if role in ("tool", "function"):
            spoken, blocks = "user", [_result(message, place)]
        elif role == "assistant":
            spoken, blocks = role, _assistant(message, place)
        else:
            spoken, blocks = "user", _blocks(message.get("content"), place)
        if not blocks:
            continue  # an empty text is refused there
        if made and made[-1]["role"] == spoken:
            made[-1]["content"] += blocks
        else:
            made.append({"role": spoken, "content": blocks})
    if made and made[-1]["role"] == "assistant":
        _strip_end(made)
    return system, made


def _strip_end(made: list[dict[str, Any]]) -> None:
    """Remove the white space at the end of a prefill, with which it is refused."""
    last = made[-1]["content"][-1]
    if last["type"] == "text":
        last["text"] = last["text"].rstrip()
        if not last["text"]:
            made[-1]["content"].pop()
        if not made[-1]["content"]:
            made.pop()


def _blocks(content: object, place: str) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    blocks: list[Block] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            blocks += _blocks(part, place)
        elif isinstance(part, dict):
            blocks += _block(part, place)
    return blocks


def _block(part: Object, place: str) -> list[Block]:
    match part.get("type"):
        case "text" | "input_text" | "refusal":
            blocks = _blocks(part.get("text") or part.get("refusal") or "", place)
            if blocks and isinstance(part.get("cache_control"), dict):  # as OpenRouter and others take it
                blocks[0]["cache_control"] = part["cache_control"]
            return blocks
        case "image_url":
            url = part.get("image_url")
            return [{"type": "image", "source": _source(url.get("url") if isinstance(url, dict) else url, place)}]
        case "file":
            file = _object(part.get("file"))
            block: Block = {"type": "document", "source": _source(file.get("file_data"), place)}
            if isinstance(file.get("filename"), str):
                block["title"] = file["filename"]
            return [block]
    raise _refused(place)


def _source(url: object, place: str) -> Block:
    if not isinstance(url, str):
        raise _refused(place)
    if found := DATA_URL.fullmatch(url):
        return {"type": "base64", "media_type": found[1], "data": found[2]}
    return {"type": "url", "url": url}


def _result(message: Object, place: str) -> Block:
    blocks = _blocks(message.get("content"), place)
    call = message.get("tool_call_id") or message.get("name")
    return {"type": "tool_result", "tool_use_id": _call_id(call), "content": blocks}


def _assistant(message: Object, place: str) -> list[Block]:
    blocks = _thoughts(message.get("reasoning_details")) + _blocks(message.get("content"), place)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            blocks.append(_call(call.get("id"), _object(call.get("function"))))
    if isinstance(legacy := message.get("function_call"), dict):
        blocks.append(_call(legacy.get("name"), legacy))
    return blocks


def _thoughts(details: object) -> list[Block]:
    """Return the thoughts that a chat client gives back, as the upstream signed or encrypted them.

    A stream has the text of a thought in several details, and its signature in the last of them.
    """
    blocks: list[Block] = []
    text = ""
    for detail in details if isinstance(details, list) else ():
        item = _object(detail)
        if isinstance(item.get("text"), str):
            text += item["text"]
        if isinstance(item.get("signature"), str):
            blocks.append({"type": "thinking", "thinking": text, "signature": item["signature"]})
            text = ""
        if isinstance(item.get("data"), str):
            blocks.append({"type": "redacted_thinking", "data": item["data"]})
    return blocks


def _call(identity: object, function: Object) -> Block:
    arguments = function.get("arguments")
    try:
        value = loads_text(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        value = None
    given = value if isinstance(value, dict) else {"arguments": arguments} if arguments else {}
    return {"type": "tool_use", "id": _call_id(identity), "name": function.get("name"), "input": given}


def _call_id(identity: object) -> str:
    return CALL_ID.sub("_", identity) if isinstance(identity, str) and identity else "none"


# --- tools -----------------------------------------------------------------------------------------------------------


def _tools(body: Object) -> dict[str, Any]:
    listed, chosen = body.get("tools") or [], body.get("tool_choice")
    if not listed and isinstance(body.get("functions"), list):
        listed = [{"type": "function", "function": function} for function in body["functions"]]
        chosen = body.get("function_call")
    if not listed:
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(listed)]}
    choice: dict[str, Any] = {"type": "auto"}
    if isinstance(chosen, str):
        choice = {"type": CHOICES.get(chosen, "auto")}
    elif isinstance(chosen, dict):
        choice = {"type": "tool", "name": _object(chosen.get("function")).get("name") or chosen.get("name")}
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    if choice != {"type": "auto"}:
        fields["tool_choice"] = choice
    return fields


def _tool(tool: object, place: str) -> dict[str, Any]:
    function = _object(tool).get("function")
    if not isinstance(function, dict):
        raise _refused(place)
    made = {"name": function.get("name"), "input_schema": function.get("parameters") or {"type": "object"}}
    if function.get("description"):
        made["description"] = function["description"]
    if function.get("strict"):
        made["strict"] = True
    return made


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _refused(place: str) -> UpstreamError:
    words = f"This upstream speaks Messages, which cannot say what is in `{place}`."
    return UpstreamError(Kind.REFUSED, words, status=400, code="unsupported_value", param=place)
