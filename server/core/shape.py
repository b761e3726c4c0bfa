"""The shape of a JSON text, counted in its bytes: what it would cost as objects is known before it is parsed."""

from itertools import accumulate

IRRELEVANT = bytes(set(range(256)) - set(b'"[]{},'))
PIECE = 32_768  # bytes that are counted at once: what follows too many values is not looked at
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def most_values(data: bytes | bytearray) -> int:
    """Return how many values a JSON text can have at most. Characters in texts count, too."""
    return 1 + data.count(b"[") + data.count(b"{") + data.count(b",")


def has_more_values(data: bytes | bytearray, most: int) -> bool:
    """Whether a JSON text has more than `most` values. What is in texts does not count."""
    if len(data) < 2 * most or most_values(data) <= most:  # each value takes two bytes, but the only one in a list
        return False
    shape = Shape(most)
    for at in range(0, len(data), PIECE):
        shape.feed(data[at : at + PIECE])
        if shape.too_many:
            return True
    return False


class Shape:
    """Counts a JSON text piece by piece. What is in texts does not count. It takes a few ns per byte.

    `values` is the most values that it can have, and `depth` how many levels deep they are nested. Past `most` values
    only these are counted, roughly.
    """

    def __init__(self, most: int) -> None:
        self.values = 1
        self.depth = 0
        self._most = most
        self._level = 0
        self._quotes = 0
        self._rest = b""  # a backslash whose other half is in the next piece

    @property
    def too_many(self) -> bool:
        """Whether there are more than `most` values. The depth is not known then."""
        return self.values > self._most

    def feed(self, data: bytes | bytearray) -> None:
        """Count the next piece."""
        data = self._rest + data
        run = len(data) - len(data.rstrip(b"\\"))
        self._rest = b"\\" * (run % 2)  # in a run of backslashes the pairs begin at its first one
        if run % 2:
            data = data[:-1]
        # Without escapes, a quote always begins or ends a text.
        plain = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, IRRELEVANT)
        in_text = self._quotes % 2
        quotes = plain.count(b'"')
        self._quotes += quotes
        if (texts := self._quotes // 2) > 2 * self._most:  # each is a value, or the name of one
            self.values = max(self.values, texts // 2)
            return
        outside = b"".join(plain.split(b'"')[in_text::2])
        self.values += most_values(outside) - 1
        if not self.too_many:
            steps = map(STEPS.__getitem__, outside.translate(None, b","))
            levels = list(accumulate(steps, initial=self._level))
            deepest, self._level = max(levels), levels[-1]
            self.depth = max(self.depth, deepest)
