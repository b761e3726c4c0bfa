"""The system prompt and the messages of a Messages request as the messages of a chat completion request."""

from typing import Any

from server.core.wide_json import dumps
from server.dialects.messages.content import Part, block_parts, joined, parts, text_part
from server.dialects.messages.fields import Object, Unsaid, blocks, invalid, items, mapping, text
from server.dialects.messages.tool_names import short_name

Message = dict[str, Any]
# Claude Code's first block of the system prompt differs with each request. A model's prompt cache begins at the start
# of the prompt, so with this block nothing would ever be read from it.
BILLING = "x-anthropic-billing-header"
SEE_BELOW = "(The result is in the next message.)"


def chat_messages(source: Object, unsaid: Unsaid) -> list[Message]:
    """Return the messages, the system prompt first. Raises Rejected 400."""
    found = items(source.get("messages"), "messages")
    if not found:
        raise invalid("messages", "at least one message is required")
    system = source.get("system")
    messages = [] if system is None else _system(system, "system", unsaid)
    for place, item in found:
        message, content = mapping(item, place), f"{place}.content"
        match text(message.get("role"), f"{place}.role"):
            case "user":
                messages += _user(message.get("content"), content, unsaid)
            case "assistant":
                messages += _assistant(message.get("content"), content, unsaid)
            case "system":  # Claude Code's reminders in mid-conversation
                messages += _system(message.get("content"), content, unsaid)
            case _:
                raise invalid(f"{place}.role", "Input should be 'user', 'assistant' or 'system'")
    return messages


def _system(content: object, place: str, unsaid: Unsaid) -> list[Message]:
    found = [part for part in parts(content, place, unsaid) if not part.get("text", "").startswith(BILLING)]
    return [{"role": "system", "content": joined(found)}] if found else []


def _user(content: object, place: str, unsaid: Unsaid) -> list[Message]:
    """Return the results of tools, then what the user says: a result has to follow its call at once.

    A `tool` message holds text alone. So what else a result holds becomes the first part of the user's message.
    """
    results: list[Message] = []
    said: list[Part] = []
    for where, block in blocks(content, place):
        if block["type"] == "tool_result":
            message, shown = _tool_result(block, where, unsaid)
            results.append(message)
            said += shown
        else:
            said += block_parts(block, where, unsaid)
    return [*results, {"role": "user", "content": joined(said)}] if said or not results else results


def _tool_result(block: Object, place: str, unsaid: Unsaid) -> tuple[Message, list[Part]]:
    """Return the `tool` message of a result, and the images and files that the message cannot hold."""
    call = text(block.get("tool_use_id"), f"{place}.tool_use_id")
    content = block.get("content")
    found = [] if content is None else parts(content, f"{place}.content", unsaid)
    shown = [part for part in found if part["type"] != "text"]
    words = "\n\n".join(part["text"] for part in found if part["type"] == "text")
    if block.get("is_error"):
        words = f"Error: {words}" if not words.lower().startswith("error") else words
    if shown:
        words = words or SEE_BELOW
        shown.insert(0, text_part(f"The result of the tool call {call}:"))
    return {"role": "tool", "tool_call_id": call, "content": words}, shown


def _assistant(content: object, place: str, unsaid: Unsaid) -> list[Message]:
    """Return the assistant's message. Thoughts with a signature are for the API that signed them alone."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in blocks(content, place):
        match block["type"]:
            case "text":
                texts.append(text(block.get("text"), f"{where}.text"))
            case "thinking":
                words = text(block.get("thinking"), f"{where}.thinking")
                if not block.get("signature"):
                    thoughts.append(words)
            case "redacted_thinking":
                pass  # only the API that encrypted it can read it
            case "tool_use":
                calls.append(_call(block, where))
            case kind:
                unsaid(f"{where}.type", f"A block of the type {kind!r}")
    message: Message = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


def _call(block: Object, place: str) -> dict[str, Any]:
    arguments = dumps(mapping(block.get("input"), f"{place}.input")).decode()
    name = short_name(text(block.get("name"), f"{place}.name"))
    call = text(block.get("id"), f"{place}.id")
    return {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
