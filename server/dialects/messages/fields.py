"""The fields of a Messages request, read with their place in it, such as `messages.2.content.0.source`.

Anthropic's own errors name a place in this form: the path, a colon, what is wrong with it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from server.core.errors import Rejected

Object = Mapping[str, Any]
# Called with a place and what is there if a chat upstream cannot be told of it. It raises, or returns to pass it over.
Unsaid = Callable[[str, str], None]


def invalid(place: str, words: str) -> Rejected:
    """Return the rejection of what is at a place."""
    return Rejected(400, f"{place}: {words}", "invalid_value", place)


def refuse(place: str, what: str) -> None:
    """Raise Rejected 400: the model's upstreams do not speak Messages, and no chat completion can hold this."""
    words = f"{what} cannot be sent to this model: its upstream speaks chat completions."
    raise Rejected(400, f"{place}: {words}", "unsupported_value", place)


def pass_over(place: str, what: str) -> None:
    """Do nothing. The upstreams speak Messages, and get the request as it is."""


def text(value: object, place: str) -> str:
    """Return a text. Raises Rejected 400."""
    if not isinstance(value, str):
        raise invalid(place, "Field required" if value is None else "Input should be a valid string")
    return value


def mapping(value: object, place: str) -> dict[str, Any]:
    """Return an object. Raises Rejected 400."""
    if not isinstance(value, dict):
        raise invalid(place, "Field required" if value is None else "Input should be an object")
    return value


def items(value: object, place: str) -> list[tuple[str, Any]]:
    """Return the items of an array, each with its place. Raises Rejected 400."""
    if not isinstance(value, list):
        raise invalid(place, "Field required" if value is None else "Input should be a valid array")
    return [(f"{place}.{index}", item) for index, item in enumerate(value)]


def blocks(value: object, place: str) -> list[tuple[str, dict[str, Any]]]:
    """Return content blocks, each with its place. A text stands for one block. Raises Rejected 400."""
    if isinstance(value, str):
        return [(place, {"type": "text", "text": value})]
    found = [(where, mapping(item, where)) for where, item in items(value, place)]
    for where, block in found:
        text(block.get("type"), f"{where}.type")
    return found
