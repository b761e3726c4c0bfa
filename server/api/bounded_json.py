"""Parses the JSON of a client, within bounds on its shape that are checked before anything is parsed.

Bytes alone are no bound. 8 MB of `[[],[],…]` are 160 MB as Python objects, and deep nesting costs seconds to parse and
to free.
"""

import asyncio
from typing import Any

import orjson

from server.core.errors import Rejected
from server.core.shape import Shape, most_values

MAX_VALUES = 100_000  # a few MB as objects, and some milliseconds to parse; 2,048 messages have about 20,000
MAX_FIELDS = 1000  # of the object itself, each of which is kept as bytes of its own; APIs have about 50
PIECE = 262_144  # bytes that are counted in one turn of the event loop
MAX_DEPTH = 100  # schemas of tools have about 20; orjson writes 254 levels


async def parse(body: bytes | bytearray, max_values: int = MAX_VALUES) -> Any:
    """Return the value that a body holds. Raises Rejected 400 or 413.

    A large body is counted piece by piece: between two pieces the tokens of other streams have their turn. Its parsing
    is one step, of about 1 ns per byte, or 3 if it is made for that.
    """
    large = len(body) > PIECE
    if large or most_values(body) > MAX_DEPTH:  # of nearly every request, these already say that it is small and flat
        found = Shape(max_values)
        for at in range(0, len(body), PIECE):
            found.feed(body[at : at + PIECE])
            if found.too_many:
                raise Rejected(413, f"The body has more than {max_values} values.", "request_too_large")
            if found.depth > MAX_DEPTH:
                raise Rejected(400, f"The body is nested more than {MAX_DEPTH} levels deep.", "invalid_json")
            if large:
                await asyncio.sleep(0)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(400, f"The body is not valid JSON: {error}.", "invalid_json") from error
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        raise Rejected(400, f"The body has more than {MAX_FIELDS} fields.", "invalid_json")
    if large:
        await asyncio.sleep(0)  # the caller writes it anew, which takes as long
    return value
