"""Makes an upstream's error fit for clients, traces and logs: secrets hidden, then everything bounded."""

import re
from collections.abc import Callable
from typing import Any

import orjson

from server.core.errors import UpstreamError

MAX_MESSAGE = 2000  # characters of an upstream's message that a client gets
MAX_PARAM = 200
MAX_TEXT = 4000  # of one text in a place of the upstream's own
MAX_PLACE = 8000  # bytes of such a place; a larger one is left out
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # a code or a type; anything else says nothing to a program


def present(error: UpstreamError, hide: Callable[[str], str]) -> None:
    """Bound what an upstream said. `hide` hides secrets in a text.

    Secrets are hidden first. A text that was cut in the middle of a secret would show a part of it.
    """
    error.message = hide(error.message)[:MAX_MESSAGE]
    error.code = _named(error.code, hide)
    error.type = _named(error.type, hide)
    error.param = None if error.param is None else hide(error.param)[:MAX_PARAM]
    error.places = {name: place for name, value in error.places.items() if (place := _bounded(value, hide)) is not None}


def _named(name: str | None, hide: Callable[[str], str]) -> str | None:
    return name if name is not None and NAME.fullmatch(name) and hide(name) == name else None


def _bounded(value: Any, hide: Callable[[str], str]) -> Any:
    """Return a place with its texts hidden and cut; None if it is still too large."""
    place = _hidden(value, hide)
    return place if len(orjson.dumps(place)) <= MAX_PLACE else None


def _hidden(value: Any, hide: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return hide(value)[:MAX_TEXT]
    if isinstance(value, list):
        return [_hidden(item, hide) for item in value]
    if isinstance(value, dict):
        return {hide(name): _hidden(item, hide) for name, item in value.items()}
    return value
