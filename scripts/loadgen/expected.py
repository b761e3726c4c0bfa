"""What each event of an answer has to be, to the byte: the upstream's own frame behind the number of its record."""

from functools import cache

from benchmark.script import HEAD, STAMP_DIGITS, Script, script

DONE = b"data: [DONE]"
ERROR = b'data: {"error":'
BETWEEN = (b": ", b"retry: ")  # lines that may come before an event: heartbeats, and when to come back
NOT_YET = -1.0


class WrongError(Exception):
    """An event that is not the one that follows: ``kind`` is lost, repeated, altered or an error of the gateway."""

    def __init__(self, kind: str, event: bytes) -> None:
        super().__init__(f"{kind}: {event[:300]!r}")
        self.kind = kind


class Answer:
    """All events of one model's answer, in order; one object for all streams of the model."""

    def __init__(self, told: Script) -> None:
        self.told = told
        frames = [told.opening.removeprefix(HEAD), *told.frames, told.finish]
        if told.kind == "stamped":
            frames = [frames[0], *[told.frames[0]] * told.tokens, told.finish]
        self._events = [_event(frame) for frame in frames] + [DONE]
        self.last = len(self._events)
        before, _, after = self._events[1].partition(b"%0*d") if told.kind == "stamped" else (b"", b"", b"")
        self._before, self._after = before, after
        self._stamped_to = told.tokens + 1 if told.kind == "stamped" else 0

    def check(self, seq: int, event: bytes) -> float:
        """Check that this is event ``seq``; return when its token was sent (CLOCK_MONOTONIC, s), or NOT_YET.

        Raises:
            WrongError: it is another.

        """
        while event.startswith(BETWEEN):
            event = event[event.find(b"\n") + 1 :]
        head = b"id: %d\n" % seq
        if 1 < seq <= self._stamped_to:
            start = len(head) + len(self._before)
            stamp = event[start : start + STAMP_DIGITS]
            if event == head + self._before + stamp + self._after and stamp.isdigit():
                return int(stamp) / 1e9
        elif seq <= self.last and event == head + self._events[seq - 1]:
            return NOT_YET
        raise WrongError(_kind(seq, event), event)

    def is_token(self, seq: int) -> bool:
        """Whether event ``seq`` is the first that has a token in it."""
        return seq == 2


@cache
def answer(model: str) -> Answer:
    """Return what a model of the benchmark's upstream says."""
    return Answer(script(model))


def _event(frame: bytes) -> bytes:
    """Take an event out of HTTP's chunk and off the blank line at its end."""
    return frame.partition(b"\r\n")[2].removesuffix(b"\n\n\r\n")


def _kind(seq: int, event: bytes) -> str:
    identity, _, data = event.partition(b"\n")
    if ERROR in event:
        code = event.rpartition(b'"code":"')[2].partition(b'"')[0].decode(errors="replace")
        return f"error {code}"
    if not identity.startswith(b"id: ") or not identity[4:].isdigit() or not data:
        return "altered"
    found = int(identity[4:])
    return "lost" if found > seq else "repeated" if found < seq else "altered"
