"""Recognising the next token's frame without parsing it."""

QUOTE, BACKSLASH = b'"\\'  # as numbers
TEXT = b'"content":"'  # and what follows to the next quote
LEARNT = 4  # frames that a stencil is cut from before it is taken that this upstream's are not alike


class Stencil:
    """What the frames of one attempt have in common: everything but the piece of text.

    An upstream repeats its id, its fields and their order with every token. A frame that is, byte for byte, one that
    was parsed and found to be a plain token, but for other characters between the quotes of its text, and there only
    such as JSON writes as they are (RFC 8259, section 7: no quote, no backslash, no control character, all of it
    UTF-8), is as valid as that one and means another piece of text. Parsing is a tenth of all that a token costs.
    """

    __slots__ = ("_after", "_before", "_cut", "_least")

    def __init__(self) -> None:
        self._before = self._after = b""
        self._least = 0  # bytes that a frame which fits has at least
        self._cut = 0

    def fits(self, data: bytes) -> bool:
        """Whether `data` is a plain token with a text."""
        before, after = self._before, self._after
        if not before or len(data) < self._least or data[: len(before)] != before or data[-len(after) :] != after:
            return False
        text = data[len(before) : -len(after)]
        try:
            return QUOTE not in text and BACKSLASH not in text and text.decode().isprintable()
        except UnicodeDecodeError:
            return False

    def cut(self, data: bytes) -> None:
        """Take what `data`, which was parsed and is a plain token, is the pattern of."""
        if self._cut == LEARNT or (self._before and data.startswith(self._before)):
            return
        self._cut += 1
        at = data.find(TEXT)  # inside a string the quotes would be escaped: this is a key, and its value a string
        end = data.find(b'"', at + len(TEXT))
        if at >= 0 and end >= 0 and data[end - 1] != BACKSLASH:
            self._before, self._after = data[: at + len(TEXT)], data[end:]
            self._least = len(self._before) + len(self._after) + 1
