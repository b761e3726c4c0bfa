"""Parses the JSON of a client, within bounds on its shape that are checked before anything is parsed.

Bytes alone are no bound. 8 MB of `[[],[],…]` are 160 MB as Python objects, and deep nesting costs seconds to parse and
to free. So the values are counted first, and how deep they are nested, in the bytes.
"""

from itertools import accumulate
from typing import Any

import orjson

from server.core.errors import Rejected

MAX_VALUES = 100_000  # a few MB as objects, and some milliseconds to parse; 2,048 messages have about 20,000
MAX_DEPTH = 100  # schemas of tools have about 20; orjson writes 254 levels

OUTSIDE = bytes(set(range(256)) - set(b'"[]{},'))
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse(body: bytes | bytearray) -> Any:
    """Return the value that a body holds. Raises Rejected 400 or 413."""
    _check_shape(bytes(body))
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(400, f"The body is not valid JSON: {error}.", "invalid_json") from error


def _check_shape(body: bytes) -> None:
    """Raise Rejected if a body has too many values, or nests them too deeply. Takes a few ns per byte."""
    if sum(map(body.count, (b"[", b"{", b","))) <= MAX_DEPTH:
        return  # nearly every request: these counts are upper bounds, as texts have commas, too
    # Without escapes a quote always begins or ends a text. The pairs of a run of backslashes begin at its first one.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, OUTSIDE)
    if plain.count(b'"') > 2 * MAX_VALUES:
        raise _too_many()
    outside = b"".join(plain.split(b'"')[::2])
    if outside.count(b",") + outside.count(b"[") + outside.count(b"{") > MAX_VALUES:
        raise _too_many()
    brackets = outside.translate(None, b",")
    if max(accumulate(map(STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise Rejected(400, f"The body is nested more than {MAX_DEPTH} levels deep.", "invalid_json")


def _too_many() -> Rejected:
    return Rejected(413, f"The body has more than {MAX_VALUES} values.", "request_too_large")
