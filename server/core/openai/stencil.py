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

    __slots__ = ("_patterns", "after", "before")

    def __init__(self) -> None:
        self.before = self.after = b""  # what the data of a frame has before and after its text; empty: no pattern yet
        self._patterns = 0

    def match(self, read: bytes) -> list[bytes]:
        """Return the text of each frame of a read if all of them are whole and fit the pattern; else nothing."""
        before, after = self.before, self.after
        start, end = len(DATA) + len(before), len(read) - len(BLANK) - len(after)
        if (
            start >= end
            or not before
            or not read.startswith(before, len(DATA))
            or not read.endswith(after, 0, -len(BLANK))
            or read[: len(DATA)] != DATA
            or read[-len(BLANK) :] != BLANK
        ):
            return []
        text = read[start:end]
        if QUOTE in text:
            return self._several(text)
        return [text] if _plain(text) else []

    def _several(self, between: bytes) -> list[bytes]:
        """Return the text of each frame. `between` is what a read has from its first text to its last one."""
        texts = between.split(self.after + BLANK + DATA + self.before)
        # Not b"".join: it could make a whole character of two halves.
        return texts if b"" not in texts and _plain(b" ".join(texts)) else []

    def leading(self, read: bytes) -> tuple[list[bytes], int]:
        """Return the texts of the frames that a read begins with, if they fit, and how many bytes those frames take.

        A frame that does not fit may follow. If it comes between frames that fit, none is returned.
        """
        before, after = self.before, self.after
        start, end = len(DATA) + len(before), read.rfind(after + BLANK)
        if not before or start >= end or not read.startswith(DATA + before):
            return [], 0
        texts = read[start:end].split(after + BLANK + DATA + before)
        if b"" in texts or not _plain(b" ".join(texts)):
            return [], 0
        return texts, end + len(after) + len(BLANK)

    def fits(self, data: bytes) -> bool:
        """Whether the data of one frame fits the pattern."""
        before, after = self.before, self.after
        start, end = len(before), len(data) - len(after)
        return (
            bool(before)
            and start < end
            and data.startswith(before)
            and data.endswith(after)
            and _plain(data[start:end])
        )

    def learn(self, data: bytes) -> None:
        """Learn the pattern from `data`, a parsed frame that is a plain token."""
        if self._patterns == MAX_PATTERNS or LF in data or (self.before and data.startswith(self.before)):
            return
        self._patterns += 1
        start = data.find(TEXT)  # a key and the start of its string: inside a string the quotes are escaped
        end = data.find(b'"', start + len(TEXT))
        if start >= 0 and end >= 0 and data[end - 1] != BACKSLASH:
            self.before, self.after = data[: start + len(TEXT)], data[end:]


def _plain(text: bytes) -> bool:
    """Whether JSON writes this text as it is."""
    try:
        return QUOTE not in text and BACKSLASH not in text and text.decode().isprintable()
    except UnicodeDecodeError:
        return False
