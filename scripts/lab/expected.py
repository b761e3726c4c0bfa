"""What an answer of the load's upstream must be: byte for byte as its events come, or by its texts when it is over."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from .reader import Response, WrongError
from .script import HEAD, STAMP_DIGITS, Script, script, word

DONE = b"data: [DONE]"
LAST_EVENTS = (DONE, b'data: {"type":"message_stop"}')  # of any dialect
ERROR = b'data: {"error":'
OTHER_LINES = (b": ", b"retry: ")  # lines that may come before an event: heartbeats, and the time to reconnect
NOT_YET = -1.0
FIRST_TOKEN = 2  # the event that has it, after the role's


# --- each id and byte, as they come from a gateway --------------------------------------------------------------------


class Answer:
    """All events of the answer of one model, in order. All streams of the model share one object."""

    def __init__(self, script: Script) -> None:
        self.script = script
        frames = [script.opening.removeprefix(HEAD), *script.frames, script.finish]
        if script.kind == "stamped":
            frames = [frames[0], *[script.frames[0]] * script.tokens, script.finish]
        self._events = [_event(frame) for frame in frames] + [DONE]
        self.last = len(self._events)
        before, _, after = self._events[1].replace(b"%", b"%%").partition(b"%%0*d")
        self._stamped = b"id: %d\n" + before + b"%b" + after
        self._stamp = slice(-len(after) - STAMP_DIGITS, -len(after))
        self._stamped_to = script.tokens + 1 if script.kind == "stamped" else 0

    def check(self, seq: int, event: bytes) -> float:
        """Check that this is event ``seq``; return when its token was sent (CLOCK_MONOTONIC, s), or NOT_YET.

        Raises:
            WrongError: it is another.

        """
        while not event.startswith(b"id: ") and event.startswith(OTHER_LINES):
            event = event[event.find(b"\n") + 1 :]
        if 1 < seq <= self._stamped_to:
            stamp = event[self._stamp]
            if event == self._stamped % (seq, stamp) and stamp.isdigit():
                return int(stamp) / 1e9
        elif seq <= self.last and event == b"id: %d\n%b" % (seq, self._events[seq - 1]):
            return NOT_YET
        raise WrongError(_kind(seq, event), event)


@cache
def answer(model: str) -> Answer:
    """Return the answer of a model of the load's upstream."""
    return Answer(script(model))


class Checked(Response):
    """The receiver of an answer, or of what follows event `after` of it. It checks each event at once.

    ``seq`` is the last event that was right. A response that is no event stream is left unchecked: ``status`` tells.
    After event `until` the client wants no more; `stall` is the event after which it reads nothing for so many seconds.
    """

    def __init__(
        self, answer: Answer, after: int = 0, *, until: int = 0, stall: tuple[int, float] | None = None
    ) -> None:
        super().__init__()
        self.answer = answer
        self.seq = after
        self.done = False
        self.ages: list[float] = []  # of the tokens of the last part, in seconds
        self.events = 0  # in the last part
        self.first_token_at = 0.0
        self.body = b""  # of a response that is no event stream
        self._until = until
        self._stall = stall
        self._text = b""

    @property
    def stream_id(self) -> str:
        """The id that the gateway gave the stream, or an empty text."""
        return self.headers.get("x-stream-id", "")

    @property
    def whole(self) -> bool:
        """Whether the last event of the answer has come."""
        return self.seq == self.answer.last

    def take(self, data: bytes, now: float) -> float:
        """Check what came at `now`. Raises WrongError: it is no next event, or the end is too early."""
        text, ages = self.feed(data), []
        if self.counted:  # it is no event stream
            self.body += text
            self.done = self.over
            return 0.0
        *events, self._text = (self._text + text).split(b"\n\n")
        for event in events:
            sent = self.answer.check(self.seq + 1, event)
            self.seq += 1
            if sent != NOT_YET:
                ages.append(now - sent)
        self.events, self.ages = len(events), ages
        if self.seq >= FIRST_TOKEN and not self.first_token_at:
            self.first_token_at = now
        if self.over and not self.whole:
            raise WrongError("cut", self._text)
        self.done = self.over or bool(self._until and self.seq >= self._until)
        if self._stall and self.seq >= self._stall[0]:
            (_, seconds), self._stall = self._stall, None
            return seconds
        return 0.0

    def place(self) -> str:
        """Return the last event that was right."""
        return f"after event {self.seq}"


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


# --- the texts, through any relay and in any dialect ------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """A checked answer: its tokens, each with its arrival in seconds of CLOCK_MONOTONIC."""

    stream_id: str  # of the gateway; the other relays give none
    tokens: list[tuple[float, str]]

    def latencies(self) -> list[float]:
        """Return the seconds from the sending of each token of a stamped script to its arrival."""
        return [arrival - int(text) / 1e9 for arrival, text in self.tokens]


def check(parts: list[tuple[float, bytes]], told: Script) -> Told:
    """Return the answer in these parts of a connection's input. Raises WrongError if it is not the script's."""
    response, rest = Response(), b""
    tokens: list[tuple[float, str]] = []
    finishes: list[str] = []
    done = False
    for arrival, data in parts:
        *events, rest = (rest + response.feed(data)).split(b"\n\n")
        for line in b"\n".join(events).split(b"\n"):
            if line.startswith(b"data: "):
                done = line in LAST_EVENTS
                text, finish = ("", "") if done else _said(orjson.loads(line[6:]))
                tokens += [(arrival, text)] if text else []
                finishes += [finish] if finish else []
    texts = [text for _, text in tokens]
    right = texts == sorted(texts) if told.kind == "stamped" else texts == [word(n) for n in range(told.tokens)]
    if response.status != 200:
        raise WrongError(f"answered {response.status}", b"".join(data for _, data in parts))
    if len(texts) != told.tokens or not right:
        raise WrongError(f"{len(texts)} of {told.tokens} tokens of {told.kind}, or not in order", parts[-1][1])
    if not response.over or not done or finishes != ["stop"]:
        raise WrongError(f"no right ending: finished {finishes}, last event {done}", parts[-1][1])
    return Told(response.headers.get("x-stream-id", ""), tokens)


def _said(event: dict[str, Any]) -> tuple[str, str]:
    """Return the text of an event of any dialect, and why the answer ends, in chat's words; both may be empty."""
    match event:
        case {"choices": [{"delta": delta, "finish_reason": finish}]}:
            return delta.get("content") or "", finish or ""
        case {"type": "response.output_text.delta", "delta": text}:
            return text, ""
        case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}:
            return text, ""
        case {"type": "response.completed"} | {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}:
            return "", "stop"
    return "", ""
