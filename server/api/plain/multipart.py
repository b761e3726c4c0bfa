"""Reads `multipart/form-data` while it passes, and takes the value of the field `model` out of it (RFC 7578, RFC 2046).

A model is replaced by another name, and a key may ask for some models only. So a body in which an upstream could see
another `model` than the gateway is refused: a second one, a name in quotes that are escaped, a line end that is no
CRLF, a delimiter that begins in the middle of a line. What clients send has none of these.
"""

import re

from server.core.errors import Rejected

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{1,70}")  # RFC 2046, section 5.1.1, without the space
MAX_HEAD = 8192  # bytes of the header fields of one part
MAX_PARTS = 1000
MAX_MODEL = 1024  # bytes of the model's name; MODEL (core/openai/request.py) bounds its characters
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")
VALUE = rb'(?:"(?:[^"\\]|\\.)*"|[^";\s]*)'
PARAMETER = re.compile(rb';[ \t]*([^=;"\s]+)=(' + VALUE + rb")[ \t]*")
DISPOSITION = re.compile(rb'(?i:form-data)[ \t]*((?:;[ \t]*[^=;"\s]+=' + VALUE + rb"[ \t]*)+)")
CRLF = b"\r\n"
NOT_CODED = frozenset({b"7bit", b"8bit", b"binary"})  # RFC 2045, section 6.2


def boundary_of(content_type: str) -> str:
    """Return the boundary that a `Content-Type` of multipart/form-data names. Raises Rejected 400."""
    found = re.findall(r';\s*boundary=("?)([^";]*)\1\s*(?=;|$)', content_type, re.IGNORECASE)
    boundary: str = found[0][1].rstrip() if len(found) == 1 else ""
    if not BOUNDARY.fullmatch(boundary):
        raise malformed("its Content-Type names no boundary, or a strange one")
    return boundary


def malformed(why: str) -> Rejected:
    """Return the rejection of a body."""
    return Rejected(400, f"The body is not valid multipart/form-data: {why}.", "invalid_multipart")


class FormScanner:
    """Passes a body on, piece by piece, without the value of its field `model`.

    `model` is that value as soon as it is known, and `model_at` its place: the number of bytes that were passed before.
    `done` says whether the last delimiter has come.
    """

    def __init__(self, boundary: str) -> None:
        self.boundary = boundary
        self.model: str | None = None
        self.model_at: int | None = None
        self._passed = 0
        self._delimiter = b"--" + boundary.encode()
        self._unread = bytearray()  # at most one part's head, or what may be the beginning of a delimiter, and a read
        self._step = self._start
        self._parts = 0
        self._value: bytearray | None = None  # of the field `model`, while its part is read

    @property
    def done(self) -> bool:
        """Whether the last delimiter has come."""
        return self._step == self._epilogue

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the body; return what may be passed on. Raises Rejected 400."""
        self._unread += data
        passed = bytearray()
        while (size := self._step()) is not None:
            passed += self._unread[:size]
            del self._unread[:size]
            self._passed += size
        return bytes(passed)

    def end(self) -> None:
        """Note that the body has ended. Raises Rejected 400 if that is too early."""
        if not self.done or self._unread:
            raise malformed("it ends in the middle of a part")

    def missing_model(self, name: str) -> bytes:
        """Return a part with a model's name, for the beginning of a body that has none."""
        head = b'Content-Disposition: form-data; name="model"'
        return CRLF.join((self._delimiter, head, b"", name.encode(), b""))

    # --- steps: each returns how many bytes may be passed on, or None if more must come before the next step ---------

    def _start(self) -> int | None:
        """Read the first delimiter."""
        if not (self._delimiter + CRLF).startswith(self._unread[: len(self._delimiter) + 2]):
            raise malformed("it does not begin with its boundary")
        return self._after_delimiter(0)

    def _after_delimiter(self, at: int) -> int | None:
        """Read what follows the delimiter that is `at` bytes on; return the bytes up to behind it."""
        end = at + len(self._delimiter) + 2
        if len(self._unread) < end:
            return None
        follows = self._unread[end - 2 : end]
        if follows == CRLF:
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise malformed(f"it has more than {MAX_PARTS} parts")
            self._step = self._head
        elif follows == b"--":
            self._step = self._epilogue
        else:
            raise malformed("its boundary is in the middle of a line")
        return end

    def _head(self) -> int | None:
        """Read the header fields of a part."""
        end = self._unread.find(CRLF + CRLF, 0, MAX_HEAD)
        if end < 0:
            if len(self._unread) >= MAX_HEAD:
                raise malformed("the head of a part is too long")
            return None
        if _name(bytes(self._unread[:end])) == b"model":
            if self._value is not None or self.model is not None:
                raise malformed("it has more than one model")
            self._value = bytearray()
        self._step = self._content
        return end + 4

    def _content(self) -> int | None:
        """Read the content of a part, up to and with the delimiter behind it."""
        at = self._unread.find(self._delimiter)
        if at >= 0:
            if at < 2 or self._unread[at - 2 : at] != CRLF:
                raise malformed("its boundary is in the middle of a line")
            if self._value is not None and self.model is None:
                self._take(at - 2)
                self._note_model()
                at = 2
            return self._after_delimiter(at)
        free = len(self._unread) - len(self._delimiter) - 1  # the rest may be the beginning of CRLF and delimiter
        if self._value is not None and self.model is None:
            self._take(max(0, free))
            return None
        return free if free > 0 else None

    def _take(self, size: int) -> None:
        """Keep the next bytes as the model's name instead of passing them on."""
        assert self._value is not None
        self._value += self._unread[:size]
        del self._unread[:size]
        if len(self._value) > MAX_MODEL:
            raise malformed("the name of its model is too long")

    def _note_model(self) -> None:
        assert self._value is not None
        try:
            self.model = self._value.decode()
        except UnicodeDecodeError:
            raise malformed("the name of its model is not UTF-8") from None
        self.model_at = self._passed

    def _epilogue(self) -> int | None:
        """Read what follows the last delimiter: a line end at most."""
        if self._unread.strip(CRLF):
            raise malformed("something follows its last part")
        return len(self._unread) or None


def _name(head: bytes) -> bytes:
    """Return the name of the field whose part has this head. Raises Rejected 400."""
    dispositions, coded = [], False
    for line in head.split(CRLF):
        field = FIELD.fullmatch(line)
        if field is None:
            raise malformed("a header field of a part is none")
        name, value = field[1].lower(), field[2].strip()
        if name == b"content-disposition":
            dispositions.append(value)
        coded = coded or (name == b"content-transfer-encoding" and value.lower() not in NOT_CODED)
    if len(dispositions) != 1 or (found := DISPOSITION.fullmatch(dispositions[0])) is None:
        raise malformed("a part has no clear Content-Disposition")
    parameters = [(key.lower(), value) for key, value in PARAMETER.findall(found[1])]
    names: list[bytes] = [value.strip(b'"') for key, value in parameters if key in (b"name", b"name*")]
    if len(names) != 1 or b"name*" in dict(parameters) or b"\\" in names[0]:
        raise malformed("a part has no clear name")
    if coded and names[0] == b"model":
        raise malformed("its model is coded")
    return names[0]
