"""JSON of texts that an upstream sent, also where orjson refuses what Python's and JavaScript's own parsers take.

orjson neither reads nor writes half of a surrogate pair, which an upstream sends if it cuts a text inside a character.
It does not read `NaN` and `Infinity`, which Python's own `json.dumps` writes, and it writes only 254 levels. Everything
else is orjson's, for its speed.
"""

import json
import re
from typing import Any

import orjson

from server.core.shape import has_more_values

MAX_VALUES = 100_000  # of JSON that is a text within JSON, such as the arguments of a call
PAST_FFFF = re.compile("[\U00010000-\U0010ffff]")  # characters that UTF-16, and so JSON's escapes, write as a pair


def dumps(value: object) -> bytes:
    """Return a value as JSON in ASCII or UTF-8. `NaN` and `Infinity` become null.

    Raises RecursionError if it is nested about 1,000 levels deep.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def dumps_like(value: object, source: bytes) -> bytes:
    """Return a value that was made from the JSON `source`, with `NaN` and `Infinity` if they are in there.

    Raises RecursionError as `dumps` does.
    """
    if b"NaN" in source or b"Infinity" in source:
        return json.dumps(value, separators=(",", ":")).encode()
    return dumps(value)


def loads(data: bytes | bytearray) -> Any:
    """Return the value of JSON in UTF-8. Raises ValueError if it is none, or is nested about 1,000 levels deep."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data.decode())  # a text: of bytes it would guess the encoding
        except RecursionError:
            raise ValueError("JSON is nested too deeply") from None


def loads_text(text: str) -> Any:
    """Return the value of JSON that came as a text within JSON: the shape of that JSON says nothing of it.

    Raises ValueError as `loads` does, and if it has more than `MAX_VALUES` values: a million take seconds.
    """
    data = text.encode("utf-8", "surrogatepass")
    if has_more_values(data, MAX_VALUES):
        raise ValueError(f"it has more than {MAX_VALUES} values")
    return loads(data)


def paired(text: str) -> str:
    """Return a text with the halves of surrogate pairs joined, which may have come in two pieces."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def halved(text: str) -> str:
    """Return a text with each surrogate pair as its two halves, as the pieces of a stream may be cut."""
    return text if text.isascii() else PAST_FFFF.sub(_halves, text)


def sound(text: str) -> str:
    """Return a text that UTF-8 can hold: a half without its other half becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _halves(character: re.Match[str]) -> str:
    high, low = divmod(ord(character[0]) - 0x10000, 0x400)
    return chr(0xD800 + high) + chr(0xDC00 + low)
