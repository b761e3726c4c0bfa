"""Recognise the frames of plain tokens without parsing them."""

QUOTE, BACKSLASH, LF = b'"\\\n'  # as numbers
DATA, BLANK = b"data: ", b"\n\n"
TEXT = b'"content":"'  # the text follows, up to the next quote
MAX_PATTERNS = 4  # that are learnt from one attempt: after that, this upstream's frames have no common pattern


class Stencil:
    """The pattern of one attempt's frames: everything but the piece of text.

    An upstream repeats its id, its fields and their order with every token. The pattern is learnt from a frame that was
    parsed and is a plain token. A later frame may differ from it only between the quotes of its text. There it may have
    only characters that JSON writes as they are (RFC 8259, section 7: no quote, no backslash, no control character, all
    of it UTF-8). Such a frame is as valid as the parsed one, and only its text is another. Parsing would be
    a tenth of all that a token costs.
    """

    __slots__ = ("_end", "_patterns", "_start")

    def __init__(self) -> None:
        self._start = self._end = b""  # a read of one frame, before and after its text
        self._patterns = 0

    def match(self, read: bytes) -> list[bytes]:
        """Return the data of each frame of a read if all of them are whole and fit the pattern; else nothing."""
        start, end = self._start, self._end
        if not start or read[: len(start)] != start or read[-len(end) :] != end or len(read) <= len(start) + len(end):
            return []
        between = read[len(start) : -len(end)]
        if LF in between:
            return self._several(between)
        return [read[len(DATA) : -len(BLANK)]] if _plain(between) else []

    def _several(self, between: bytes) -> list[bytes]:
        texts = between.split(self._end + self._start)
        if b"" in texts or not _plain(b" ".join(texts)):  # not b"".join: it could make a whole character of two halves
            return []
        before, after = self._start[len(DATA) :], self._end[: -len(BLANK)]
        return [before + text + after for text in texts]

    def learn(self, data: bytes) -> None:
        """Learn the pattern from `data`, a parsed frame that is a plain token."""
        if self._patterns == MAX_PATTERNS or LF in data or (self._start and data.startswith(self._start[len(DATA) :])):
            return
        self._patterns += 1
        start = data.find(TEXT)  # a key and the start of its string: inside a string the quotes are escaped
        end = data.find(b'"', start + len(TEXT))
        if start >= 0 and end >= 0 and data[end - 1] != BACKSLASH:
            self._start, self._end = DATA + data[: start + len(TEXT)], data[end:] + BLANK


def _plain(text: bytes) -> bool:
    """Whether JSON writes this text as it is."""
    try:
        return QUOTE not in text and BACKSLASH not in text and text.decode().isprintable()
    except UnicodeDecodeError:
        return False
