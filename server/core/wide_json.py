"""JSON of texts that an upstream sent, also where orjson refuses what Python's and JavaScript's own parsers take.

orjson neither reads nor writes half of a surrogate pair, which an upstream sends if it cuts a text inside a character,
and it writes only 254 levels. Everything else is orjson's, for its speed.
"""

import json
from typing import Any

import orjson


def dumps(value: object) -> bytes:
    """Return a value as JSON in ASCII or UTF-8. Raises RecursionError if it is nested about 1,000 levels deep."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def loads(data: bytes) -> Any:
    """Return the value of JSON that `dumps` wrote."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)
