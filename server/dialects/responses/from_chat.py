"""A chat request as a Responses request: for clients of other dialects whose upstream speaks Responses.

Sources: https://platform.openai.com/docs/api-reference/chat/create and …/responses/create. A field that is not named
here goes upstream as it is, and the upstream says what it thinks of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

# Fields with another name or place, and those that Responses does not have because it always does what they ask for.
TRANSLATED = frozenset({
    "model", "messages", "tools", "tool_choice", "functions", "function_call", "response_format", "reasoning_effort",
    "verbosity", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "n", "stream", "stream_options",
})  # fmt: skip


def responses_body(chat: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
    """Translate a request. `model` is the upstream's name of the model."""
    body: dict[str, Any] = {"model": model, "input": list(_items(chat.get("messages") or ()))}
    body |= {name: value for name, value in chat.items() if name not in TRANSLATED}
    body.setdefault("store", False)  # which is the default of chat completions
    if tools := [_tool(tool) for tool in chat.get("tools") or ()]:
        body["tools"] = tools
        if (choice := chat.get("tool_choice")) is not None:
            body["tool_choice"] = _choice(choice)
    limits = [chat[name] for name in ("max_completion_tokens", "max_tokens") if chat.get(name) is not None]
    if limits:
        body["max_output_tokens"] = limits[0]
    if chat.get("reasoning_effort") is not None:
        body["reasoning"] = {"effort": chat["reasoning_effort"]}
    text = {"verbosity": chat["verbosity"]} if chat.get("verbosity") is not None else {}
    if (form := _format(chat.get("response_format"))) is not None:
        text["format"] = form
    if text:
        body["text"] = text
    if chat.get("logprobs"):
        body["include"] = ["message.output_text.logprobs"]
        body["top_logprobs"] = chat.get("top_logprobs") or 0
    body["stream"] = stream
    return body


def _items(messages: Any) -> Iterator[dict[str, Any]]:
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "tool":
            yield {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": _texts(content)}
            continue
        if role == "assistant":
            yield from _answer(message)
        elif content is not None:
            parts = content if isinstance(content, str) else [_part(part) for part in content]
            yield {"type": "message", "role": role, "content": parts}


def _answer(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    parts = [{"type": "output_text", "text": text}] if (text := _texts(message.get("content"))) else []
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    if parts:
        yield {"type": "message", "role": "assistant", "content": parts}
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        named = {"name": function.get("name"), "arguments": function.get("arguments") or "{}"}
        yield {"type": "function_call", "call_id": call.get("id"), **named}


def _texts(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content or ""


def _part(part: Any) -> Any:
    match part.get("type") if isinstance(part, dict) else None:
        case "text":
            return {**part, "type": "input_text"}
        case "image_url":
            image = part["image_url"] if isinstance(part.get("image_url"), dict) else {"url": part.get("image_url")}
            detail = image.get("detail") or "auto"
            return {"type": "input_image", "image_url": image.get("url"), "detail": detail}
        case "file":
            return {"type": "input_file", **(part.get("file") or {})}
    return part


def _tool(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    return {"type": "function", "parameters": None, "strict": False, **function}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return {"type": "function", "name": choice["function"].get("name")}
    return choice


def _format(form: Any) -> Any:
    if isinstance(form, dict) and isinstance(form.get("json_schema"), dict):
        return {"type": "json_schema", **form["json_schema"]}
    return form
