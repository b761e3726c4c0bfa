"""The fields of a chat completion request that the gateway itself checks.

Source: https://platform.openai.com/docs/api-reference/chat/create. A field that is not here goes upstream as it is.
"""

import re
from typing import Any

from server.core.errors import Rejected

MAX_MESSAGES = 2048  # as in OpenAI's own API
MAX_CHOICES = 128
MODEL = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")  # it goes out in a header, and a line end would break that

NUMBER: tuple[type, ...] = (int, float)
FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "stream": ((bool,), "a boolean"),
    "stream_options": ((dict,), "an object"),
    "n": ((int,), "an integer"),
    "max_tokens": ((int,), "an integer"),
    "max_completion_tokens": ((int,), "an integer"),
    "temperature": (NUMBER, "a number"),
    "top_p": (NUMBER, "a number"),
    "presence_penalty": (NUMBER, "a number"),
    "frequency_penalty": (NUMBER, "a number"),
    "seed": ((int,), "an integer"),
    "stop": ((str, list), "a string or an array"),
    "logit_bias": ((dict,), "an object"),
    "logprobs": ((bool,), "a boolean"),
    "top_logprobs": ((int,), "an integer"),
    "tools": ((list,), "an array"),
    "tool_choice": ((str, dict), "a string or an object"),
    "response_format": ((dict,), "an object"),
    "user": ((str,), "a string"),
}


def check_fields(body: dict[str, Any]) -> None:
    """Raise Rejected 400 if a field is missing, or has a wrong type or range."""
    if not isinstance(body.get("model"), str) or not MODEL.fullmatch(body["model"]):
        raise invalid("model", "a string of 1 to 256 characters, none of them a control character")
    for name, (types, wanted) in FIELDS.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise invalid(name, wanted)
    _check_messages(body.get("messages"))
    if body.get("n") is not None and not 1 <= body["n"] <= MAX_CHOICES:
        raise invalid("n", f"between 1 and {MAX_CHOICES}")
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None and body[name] < 1:
            raise invalid(name, "at least 1")


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "a non-empty array")
    if len(messages) > MAX_MESSAGES:
        text = f"Invalid 'messages': array too long: at most {MAX_MESSAGES} messages, not {len(messages)}."
        raise Rejected(400, text, "array_above_max_length", "messages")
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(name, "an object")
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise invalid(f"{name}.role", "a non-empty string")
        if not isinstance(message.get("content"), str | list | None):
            raise invalid(f"{name}.content", "a string or an array")


def invalid(name: str, wanted: str) -> Rejected:
    """Return the rejection of one field. `wanted` says what the field must be."""
    return Rejected(400, f"Invalid '{name}': it must be {wanted}.", "invalid_value", name)
