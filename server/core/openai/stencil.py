"""Recognising the next tokens' frames without parsing them."""

QUOTE, BACKSLASH, LF = b'"\\\n'  # as numbers
DATA, BLANK = b"data: ", b"\n\n"
TEXT = b'"content":"'  # and what follows to the next quote
LEARNT = 4  # frames that it is cut from before it is taken that those of this upstream are not alike


class Stencil:
    """What the frames of one attempt have in common: everything but the piece of text.

    An upstream repeats its id, its fields and their order with every token. A frame that is, byte for byte, one that
    was parsed and found to be a plain token, but for other characters between the quotes of its text, and there only
    such as JSON writes as they are (RFC 8259, section 7: no quote, no backslash, no control character, all of it
    UTF-8), is as valid as that one and means another piece of text. Parsing is a tenth of all that a token costs.
    """

    __slots__ = ("_cut", "_end", "_start")

    def __init__(self) -> None:
        self._start = self._end = b""  # what comes before and after the text, of a read of one frame
        self._cut = 0

    def match(self, read: bytes) -> list[bytes]:
        """Return the data of the frames of a read; nothing where it is anything but whole frames that fit."""
        start, end = self._start, self._end
        if not start or read[: len(start)] != start or read[-len(end) :] != end or len(read) <= len(start) + len(end):
            return []
        told = read[len(start) : -len(end)]
        if LF in told:
            return self._several(told)
        return [read[len(DATA) : -len(BLANK)]] if _plain(told) else []

    def _several(self, told: bytes) -> list[bytes]:
        texts = told.split(self._end + self._start)
        if b"" in texts or not _plain(b" ".join(texts)):  # not b"": two halves of a character would make a whole one
            return []
        before, after = self._start[len(DATA) :], self._end[: -len(BLANK)]
        return [before + text + after for text in texts]

    def cut(self, data: bytes) -> None:
        """Take what `data`, which was parsed and is a plain token, is the pattern of."""
        if self._cut == LEARNT or LF in data or (self._start and data.startswith(self._start[len(DATA) :])):
            return
        self._cut += 1
        at = data.find(TEXT)  # inside a string the quotes would be escaped: this is a key, and its value a string
        end = data.find(b'"', at + len(TEXT))
        if at >= 0 and end >= 0 and data[end - 1] != BACKSLASH:
            self._start, self._end = DATA + data[: at + len(TEXT)], data[end:] + BLANK


def _plain(text: bytes) -> bool:
    """Whether JSON writes this text as it is."""
    try:
        return QUOTE not in text and BACKSLASH not in text and text.decode().isprintable()
    except UnicodeDecodeError:
        return False
