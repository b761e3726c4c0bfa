"""The shape of a JSON text, counted in its bytes: what it would cost as objects is known before it is parsed."""

from itertools import accumulate

IRRELEVANT = bytes(set(range(256)) - set(b'"[]{},'))
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def most_values(data: bytes | bytearray) -> int:
    """Return how many values a JSON text can have at most. Characters in texts count, too."""
    return 1 + data.count(b"[") + data.count(b"{") + data.count(b",")


def shape(data: bytes | bytearray, most: int) -> tuple[int, int]:
    """Return how many values a JSON text has at most, and how many levels deep they are nested.

    What is in texts does not count. If there are more than `most` values, the depth is 0. Takes a few ns per byte.
    """
    # Without escapes, a quote always begins or ends a text. In a run of backslashes the pairs begin at its first one.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, IRRELEVANT)
    if (texts := plain.count(b'"') // 2) > 2 * most:  # each is a value, or the name of one
        return texts // 2, 0
    outside = b"".join(plain.split(b'"')[::2])
    if (values := most_values(outside)) > most:
        return values, 0
    return values, max(accumulate(map(STEPS.__getitem__, outside.translate(None, b","))), default=0)
