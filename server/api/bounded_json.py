"""Parses the JSON of a client, within bounds on its shape that are checked before anything is parsed.

Bytes alone are no bound. 8 MB of `[[],[],…]` are 160 MB as Python objects, and deep nesting costs seconds to parse and
to free.
"""

from typing import Any

import orjson

from server.core.errors import Rejected
from server.core.shape import most_values, shape

MAX_VALUES = 100_000  # a few MB as objects, and some milliseconds to parse; 2,048 messages have about 20,000
MAX_DEPTH = 100  # schemas of tools have about 20; orjson writes 254 levels


def parse(body: bytes | bytearray, max_values: int = MAX_VALUES) -> Any:
    """Return the value that a body holds. Raises Rejected 400 or 413."""
    if most_values(body) > MAX_DEPTH:  # of nearly every request, these already say that it is small and flat
        values, depth = shape(body, max_values)
        if values > max_values:
            raise Rejected(413, f"The body has more than {max_values} values.", "request_too_large")
        if depth > MAX_DEPTH:
            raise Rejected(400, f"The body is nested more than {MAX_DEPTH} levels deep.", "invalid_json")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(400, f"The body is not valid JSON: {error}.", "invalid_json") from error
