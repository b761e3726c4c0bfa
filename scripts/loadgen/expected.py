"""The bytes that each event of an answer must have: the upstream's own frame behind the number of its record."""

from functools import cache

from benchmark.script import HEAD, STAMP_DIGITS, Script, script

DONE = b"data: [DONE]"
ERROR = b'data: {"error":'
OTHER_LINES = (b": ", b"retry: ")  # lines that may come before an event: heartbeats, and the time to reconnect
NOT_YET = -1.0


class WrongError(Exception):
    """An event is not the next one. `kind` is lost, repeated, altered or an error of the gateway."""

    def __init__(self, kind: str, event: bytes) -> None:
        super().__init__(f"{kind}: {event[:300]!r}")
        self.kind = kind


class Answer:
    """All events of the answer of one model, in order. All streams of the model share one object."""

    def __init__(self, script: Script) -> None:
        self.script = script
        frames = [script.opening.removeprefix(HEAD), *script.frames, script.finish]
        if script.kind == "stamped":
            frames = [frames[0], *[script.frames[0]] * script.tokens, script.finish]
        self._events = [_event(frame) for frame in frames] + [DONE]
        self.last = len(self._events)
        before, _, after = self._events[1].partition(b"%0*d") if script.kind == "stamped" else (b"", b"", b"")
        self._before, self._after = before, after
        self._stamped_to = script.tokens + 1 if script.kind == "stamped" else 0

    def check(self, seq: int, event: bytes) -> float:
        """Check that this is event ``seq``; return when its token was sent (CLOCK_MONOTONIC, s), or NOT_YET.

        Raises:
            WrongError: it is another.

        """
        while event.startswith(OTHER_LINES):
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
    """Return the answer of a model of the benchmark's upstream."""
    return Answer(script(model))


def _event(frame: bytes) -> bytes:
    """Take an event out of its HTTP chunk, without the blank line at its end."""
    return frame.partition(b"\r\n")[2].removesuffix(b"\n\n\r\n")


def _kind(seq: int, event: bytes) -> str:
    identity, _, data = event.partition(b"\n")
    if ERROR in event:
        code = event.rpartition(b'"code":"')[2].partition(b'"')[0].decode(errors="replace")
        return f"error {code}"
    if not identity.startswith(b"id: ") or not identity[4:].isdigit() or not data:
        return "altered"
    number = int(identity[4:])
    return "lost" if number > seq else "repeated" if number < seq else "altered"
