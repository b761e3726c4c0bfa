"""Reads one HTTP response with an event stream as its bytes come, and checks each event at once."""

from .expected import NOT_YET, Answer, WrongError


class Response:
    """Feed it bytes. ``seq`` is the last event that was right; ``over`` is set at the end of the response.

    A response that is no event stream is left unchecked: ``status`` tells.
    """

    def __init__(self, answer: Answer, after: int = 0) -> None:
        self.answer = answer
        self.seq = after
        self.status = 0
        self.stream_id = ""
        self.over = False
        self.first_token_at = 0.0
        self.body = b""  # of a response that is no event stream
        self._raw = b""
        self._text = b""
        self._length: int | None = None  # of a body that is not chunked

    @property
    def whole(self) -> bool:
        """Whether the last event of the answer has come."""
        return self.seq == self.answer.last

    def feed(self, data: bytes, now: float) -> tuple[int, list[float]]:
        """Take bytes that came at ``now``; return the events that were in them, and the ages of their tokens.

        Raises:
            WrongError: an event is not the one that follows, or the response ends inside one.

        """
        self._raw = self._raw + data if self._raw else data
        if not self.status and not self._head():
            return 0, []
        if self._length is not None:
            self.body += self._raw
            self._raw, self.over = b"", len(self.body) >= self._length
            return 0, []
        raw, position, text = self._raw, 0, self._text
        while True:
            end = raw.find(b"\r\n", position)
            if end < 0:
                break
            size = int(raw[position:end].partition(b";")[0], 16)
            if len(raw) < end + size + 4:
                break
            text += raw[end + 2 : end + 2 + size]
            position = end + size + 4
            if size == 0:
                self.over = True
                break
        self._raw, self._text = raw[position:], text
        return self._events(now)

    def _events(self, now: float) -> tuple[int, list[float]]:
        *events, self._text = self._text.split(b"\n\n")
        ages = []
        for event in events:
            sent = self.answer.check(self.seq + 1, event)
            self.seq += 1
            if sent != NOT_YET:
                ages.append(now - sent)
            if not self.first_token_at and self.answer.is_token(self.seq):
                self.first_token_at = now
        if self.over and not self.whole:
            raise WrongError("cut", self._text)
        return len(events), ages

    def _head(self) -> bool:
        head, found, rest = self._raw.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.status = int(first.split()[1])
        self.stream_id = headers.get("x-stream-id", "")
        if "chunked" not in headers.get("transfer-encoding", ""):
            self._length = int(headers.get("content-length", 0))
        self._raw = rest
        return True
