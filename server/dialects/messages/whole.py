"""An answer that is not streamed: a chat completion as a message, and a message as a chat completion."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

import orjson

from server.core.openai.chunks import text_of
from server.core.wide_json import dumps, loads_text
from server.dialects.messages.blocks import REDACTED, TEXT, THINKING, TOOL
from server.dialects.messages.chunks import FORMAT
from server.dialects.messages.said import details_of, texts_of
from server.dialects.messages.stop_reasons import finish_reason, stop_reason
from server.dialects.messages.usage import chat_usage, messages_usage

Object = Mapping[str, Any]


def message_of(
    answer: Object,
    *,
    identity: str,
    model: str,
    name: Callable[[str], str],
    stop_sequence: Callable[[object], str | None],
) -> dict[str, Any]:
    """Return the message of a chat completion. `name` gives the whole names of tools, `model` the asked one.

    `stop_sequence` gives the request's own text for what the upstream says has stopped the answer.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    said = choice.get("message")
    said = said if isinstance(said, dict) else {}
    content = [*_thoughts(said), *_texts(said), *_calls(said, identity, name)]
    usage = answer.get("usage")
    stop = next((stop for field in ("stop_reason", "matched_stop") if (stop := choice.get(field))), None)
    sequence = stop_sequence(stop)
    reason = choice.get("finish_reason")
    stopped = stop_reason(
        (reason,) if isinstance(reason, str) else (),
        calls=any(block["type"] == TOOL for block in content),
        refused=bool(said.get("refusal")),
        sequence=sequence,
    )
    named = answer.get("model")
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": named if named and isinstance(named, str) else model,
        "content": content,
        "stop_reason": stopped,
        "stop_sequence": sequence if stopped == "stop_sequence" else None,
        "usage": messages_usage(usage if isinstance(usage, dict) else {}),
    }


def _thoughts(said: Object) -> list[dict[str, Any]]:
    """Return the thoughts: those with a detail of their own, each with its signature, or else all of them as one."""
    blocks: list[dict[str, Any]] = []
    signature = ""
    for field, value in details_of(said):
        if field == "text":
            blocks.append({"type": THINKING, "thinking": value, "signature": ""})
        elif field == "data":
            blocks.append({"type": REDACTED, "data": value})
        elif blocks and blocks[-1].get("signature") == "":
            blocks[-1]["signature"] = value
        else:
            signature = signature or value
    if any(block["type"] == THINKING for block in blocks):
        return blocks
    plain = text_of(dict(said), "reasoning")
    parts = "".join(text for kind, text in texts_of(said.get("content"), TEXT) if kind == THINKING)
    if thought := plain if isinstance(plain, str) and plain else parts:
        blocks.insert(0, {"type": THINKING, "thinking": thought, "signature": signature})
    return blocks


def _texts(said: Object) -> list[dict[str, Any]]:
    texts = [text for kind, text in texts_of(said.get("content"), TEXT) if kind == TEXT]
    refusal = said.get("refusal")
    refusals = [refusal] if isinstance(refusal, str) and refusal else []
    return [{"type": TEXT, "text": text} for text in (*texts, *refusals)]


def _calls(said: Object, identity: str, name: Callable[[str], str]) -> list[dict[str, Any]]:
    legacy = said.get("function_call")
    blocks: list[dict[str, Any]] = []
    for index, call in enumerate(_list(said.get("tool_calls")) or [{"function": legacy}]):
        function = call.get("function") if _is(call) else None
        if not _is(function):
            continue
        given, called = call.get("id"), function.get("name")
        # Results name their call by its id, so no two calls may have the same.
        unfit = not given or not isinstance(given, str) or any(block["id"] == given for block in blocks)
        blocks.append(
            {
                "type": TOOL,
                "id": f"{identity.replace('msg_', 'toolu_')}_{index}" if unfit else given,
                "name": name(called) if isinstance(called, str) else "",
                "input": _input(function.get("arguments")),
            }
        )
    return blocks


def _input(arguments: object) -> dict[str, Any]:
    """Return a call's arguments as the object that the API demands. What is none is kept as a text within one."""
    value = arguments
    if isinstance(arguments, str):
        try:
            value = loads_text(arguments) if arguments.strip() else {}
        except (ValueError, orjson.JSONDecodeError):
            value = arguments
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"arguments": value}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def completion_of(message: Object, created: int) -> dict[str, Any]:
    """Return the chat completion of a message: what the chunks of its events would say. `created` is in seconds."""
    said: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for name, kind, field in (("content", "text", "text"), ("reasoning_content", "thinking", "thinking")):
        if texts := [text for block in _of(message, kind) if isinstance(text := block.get(field), str)]:
            said[name] = "".join(texts)
    if details := [*_signed(message)]:
        said["reasoning_details"] = details
    if calls := [_tool_call(block) for block in _of(message, "tool_use")]:
        said["tool_calls"] = calls
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason(message.get("stop_reason"))}
    if isinstance(message.get("stop_sequence"), str):
        choice["stop_reason"] = message["stop_sequence"]
    usage = message.get("usage")
    return {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created,
        "model": message.get("model"),
        "choices": [choice],
        "usage": chat_usage(usage if isinstance(usage, dict) else {}),
    }


def _of(message: Object, kind: str) -> list[dict[str, Any]]:
    return [block for block in _list(message.get("content")) if _is(block) and block.get("type") == kind]


def _signed(message: Object) -> Iterator[dict[str, Any]]:
    for block in _of(message, "thinking"):
        if block.get("signature"):
            signed = {"text": block.get("thinking"), "signature": block["signature"]}
            yield {"type": "reasoning.text", **signed, "format": FORMAT, "index": 0}
    for block in _of(message, "redacted_thinking"):
        yield {"type": "reasoning.encrypted", "data": block.get("data"), "format": FORMAT, "index": 0}


def _tool_call(block: Object) -> dict[str, Any]:
    function = {"name": block.get("name"), "arguments": dumps(block.get("input") or {}).decode()}
    return {"id": block.get("id"), "type": "function", "function": function}
