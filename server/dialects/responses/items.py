"""The input items of a Responses request as the messages of a chat completion.

Source: https://platform.openai.com/docs/api-reference/responses/create (`input`). Clients send back what they were
given: messages, calls with their outputs, and reasoning. The ids of items are ignored.
"""

from typing import Any

from server.core.errors import Rejected
from server.core.openai.request import invalid
from server.core.wide_json import dumps
from server.dialects.responses import events
from server.dialects.responses.delta import image_part
from server.dialects.responses.tools import Tools, refused

MAX_ITEMS = 10_000
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text", "summary_text")


class Messages:
    """Collects messages item by item. `refusal`: the first thing that a chat completion cannot say."""

    def __init__(self, tools: Tools) -> None:
        self.refusal: Rejected | None = None
        self._tools = tools
        self._messages: list[dict[str, Any]] = []
        self._reasoning = ""  # of an item that the next message of the assistant belongs to

    def instruct(self, instructions: str) -> None:
        """Add the request's `instructions`."""
        self._messages.append({"role": "system", "content": instructions})

    def add(self, item: object, path: str) -> None:
        """Add one item. Raises Rejected 400 if it is malformed."""
        item = {"role": "user", "content": item} if isinstance(item, str) else item
        if not isinstance(item, dict):
            raise invalid(path, "an object")
        kind = item.get("type")
        match kind:
            case _ if names_another(item):
                text = f"Item with id '{str(item.get('id'))[:100]}' not found."
                self.refusal = self.refusal or Rejected(400, text, "item_not_found", f"{path}.id")
            case "message" | None if kind or "role" in item:
                self._add_message(item, path)
            case "function_call" | "custom_tool_call":
                self._add_call(item, path)
            case "function_call_output" | "custom_tool_call_output":
                self._add_output(item, path)
            case "reasoning":
                self._add_reasoning(item, path)
            case events.IMAGE:
                self._add_image(item, path)
            case "additional_tools":
                pass  # `added_tools` has them
            case str():
                self._refuse(f"{path}.type", f"an item of the type {kind!r}")
            case _:
                raise invalid(f"{path}.type", "the type of an item")

    def _refuse(self, path: str, what: str) -> None:
        self.refusal = self.refusal or refused(path, what)

    def _add_message(self, item: dict[str, Any], path: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise invalid(f"{path}.role", "'user', 'assistant', 'system' or 'developer'")
        parts = self._parts(item.get("content"), f"{path}.content")
        if role == "assistant":
            self._add_answer(parts, f"{path}.content")
        elif role == "user":
            self._reasoning = ""  # it was of an answer that broke off before it said anything
            self._messages.append({"role": "user", "content": _shortest(parts)})
        else:
            # Servers of open models know `system` alone, and many of their templates want one text.
            if any(part["type"] != "text" for part in parts):
                self._refuse(f"{path}.content", f"anything but text from the role {role!r}")
            self._messages.append({"role": "system", "content": "\n\n".join(part.get("text", "") for part in parts)})

    def _add_answer(self, parts: list[dict[str, Any]], path: str) -> None:
        if any(part["type"] not in ("text", "refusal") for part in parts):
            self._refuse(path, "anything but text from the role 'assistant'")
        texts = [part["text"] for part in parts if part["type"] == "text"]
        refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not refusals else None}
        if refusals:
            message["refusal"] = "".join(refusals)
        self._append_answer(message)

    def _append_answer(self, message: dict[str, Any]) -> None:
        if self._reasoning:
            message["reasoning_content"], self._reasoning = self._reasoning, ""
        self._messages.append(message)

    def _add_call(self, item: dict[str, Any], path: str) -> None:
        name, call_id = _text(item, "name", path), _text(item, "call_id", path)
        namespace = item.get("namespace")
        if not isinstance(namespace, str | None):
            raise invalid(f"{path}.namespace", "a string")
        if item["type"] == "custom_tool_call":
            arguments = dumps({"input": _string(item.get("input"), f"{path}.input")}).decode()
        else:
            arguments = _string(item.get("arguments"), f"{path}.arguments")
        function = {"name": self._tools.name_of(name, namespace), "arguments": arguments}
        last = self._messages[-1] if self._messages else {}
        if last.get("role") != "assistant" or self._reasoning:
            last = {"role": "assistant", "content": None}
            self._append_answer(last)
        last.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})

    def _add_output(self, item: dict[str, Any], path: str) -> None:
        call_id = _text(item, "call_id", path)
        output = item.get("output")
        content = output if isinstance(output, str) else _shortest(self._parts(output, f"{path}.output"))
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _add_reasoning(self, item: dict[str, Any], path: str) -> None:
        """Keep the reasoning for the answer that follows it. Summaries and encrypted reasoning are for OpenAI alone."""
        content = item.get("content")
        if content is not None:
            parts = self._parts(content, f"{path}.content", texts=("reasoning_text", "text"))
            self._reasoning += "".join(part["text"] for part in parts if part["type"] == "text")

    def _add_image(self, item: dict[str, Any], path: str) -> None:
        """Add an image that the assistant has made, as one of the user's: servers take images from nobody else."""
        image = item.get("result")
        if not isinstance(image, str | None):
            raise invalid(f"{path}.result", "a string")
        if image:
            self._messages.append({"role": "user", "content": [image_part(image)]})

    def _parts(self, content: object, path: str, texts: tuple[str, ...] = TEXT_PARTS) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise invalid(path, "a string or an array")
        parts = []
        for index, part in enumerate(content):
            name = f"{path}[{index}]"
            if not isinstance(part, dict):
                raise invalid(name, "an object")
            if part.get("type") in texts:
                parts.append(
                    _with_cache_mark({"type": "text", "text": _string(part.get("text"), f"{name}.text")}, part)
                )
            elif (other := self._other_part(part, name)) is not None:
                parts.append(_with_cache_mark(other, part))
        return parts

    def _other_part(self, part: dict[str, Any], path: str) -> dict[str, Any] | None:
        """Return a part that is no text. None: a chat completion cannot say it."""
        match part.get("type"):
            case "refusal":
                return {"type": "refusal", "refusal": _string(part.get("refusal"), f"{path}.refusal")}
            case "input_image":
                return self._image(part, path)
            case "input_file":
                return self._file(part, path)
            case "input_audio" if isinstance(part.get("input_audio"), dict):
                return {"type": "input_audio", "input_audio": part["input_audio"]}
            case str(kind):
                self._refuse(f"{path}.type", f"a part of the type {kind!r}")
                return None
        raise invalid(f"{path}.type", "the type of a part")

    def _image(self, part: dict[str, Any], path: str) -> dict[str, Any] | None:
        url: Any = part.get("image_url")
        detail = part.get("detail")
        if isinstance(url, dict):  # as chat completions have it, which clients mix up
            url, detail = url.get("url"), url.get("detail", detail)
        if url is None and part.get("file_id") is not None:
            self._refuse(f"{path}.file_id", "the id of an uploaded image")
            return None
        if not isinstance(url, str) or not url:
            raise invalid(f"{path}.image_url", "a URL")
        if not isinstance(detail, str | None):
            raise invalid(f"{path}.detail", "a string")
        return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}

    def _file(self, part: dict[str, Any], path: str) -> dict[str, Any] | None:
        file = {name: part[name] for name in ("file_id", "file_data", "filename") if part.get(name) is not None}
        for name, value in file.items():
            _string(value, f"{path}.{name}")
        if "file_id" in file or "file_data" in file:
            return {"type": "file", "file": file}
        if part.get("file_url") is None:
            raise invalid(path, "a file with a 'file_data', 'file_id' or 'file_url'")
        self._refuse(f"{path}.file_url", "the address of a file")
        return None

    def take(self) -> list[dict[str, Any]]:
        """Return the messages."""
        return _current_reasoning(_one_system_message(self._messages))


def names_another(item: object) -> bool:
    """Whether an item of the input is only the id of another one. Its type may be left out (API reference)."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return False
    kind = item.get("type")
    return bool(kind == "item_reference" or (kind is None and "role" not in item))


def added_tools(items: list[Any]) -> list[tuple[str, Any]]:
    """Return the tools that items of the type `additional_tools` add, each with its place."""
    return [
        (f"input[{index}].tools", item.get("tools"))
        for index, item in enumerate(items)
        if isinstance(item, dict) and item.get("type") == "additional_tools"
    ]


def _one_system_message(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with those of the system at the start as one.

    Many templates of open models raise an error at a second one.
    """
    count = next((index for index, one in enumerate(messages) if one["role"] != "system"), len(messages))
    if count < 2:
        return messages
    text = "\n\n".join(message["content"] for message in messages[:count])
    return [{"role": "system", "content": text}, *messages[count:]]


def _current_reasoning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with the reasoning of the current turn only.

    Within a turn, models that reason between calls want it back. DeepSeek refuses a request that lacks it
    (api-docs.deepseek.com/guides/thinking_mode). Of earlier turns nobody wants it.
    """
    last_user = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)
    for message in messages[: last_user + 1]:
        message.pop("reasoning_content", None)
    return messages


def _shortest(parts: list[dict[str, Any]]) -> Any:
    """Return a single text as a string, which every server reads; else the parts."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts


def _with_cache_mark(translated: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    mark = part.get("prompt_cache_breakpoint")
    return translated if mark is None else {**translated, "prompt_cache_breakpoint": mark}


def _text(item: dict[str, Any], name: str, path: str) -> str:
    text = item.get(name)
    if not isinstance(text, str) or not text:
        raise invalid(f"{path}.{name}", "a non-empty string")
    return text


def _string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise invalid(path, "a string")
    return value
