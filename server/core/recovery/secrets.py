"""Hides configured secrets in texts of upstreams, in the forms in which an upstream may quote them."""

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

SHORTEST = 8  # characters from which on a value is hidden: a shorter one would hide words
HIDDEN = "[hidden]"


class Secrets:
    """The values that are sent to an upstream and that no client and no log may see."""

    def __init__(self, values: Iterable[str | None]) -> None:
        forms = {form for value in values if value and len(value) >= SHORTEST for form in _forms(value)}
        # The longest first: a form may hold another one.
        ordered = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def hide(self, text: str) -> str:
        """Return the text without the secrets."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


def _forms(value: str) -> Iterator[str]:
    """Yield a secret as it is, and in the encodings that servers use in messages, URLs and headers."""
    data = value.encode()
    yield value
    yield from (quote(value, safe=""), quote(value))
    yield from (data.hex(), data.hex().upper())
    for offset in range(3):
        yield from _within_base64(data, offset)


def _within_base64(data: bytes, offset: int) -> Iterator[str]:
    """Yield what base64 makes of a secret, whatever stands around it (as in "Bearer …", or "user:…").

    Three bytes become four characters. So there are three forms, by the number of bytes before it, without the
    characters that also depend on its neighbours.
    """
    first, last = -(-offset * 8 // 6), (offset + len(data)) * 8 // 6
    core = base64.b64encode(bytes(offset) + data)[first:last].decode()
    yield from (core, core.translate(str.maketrans("+/", "-_")))
