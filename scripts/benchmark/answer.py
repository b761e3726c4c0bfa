"""Checks every token of a received answer. A relay that loses or repeats one gets no figure."""

from dataclasses import dataclass

import orjson

from .script import Script, word


class LostTokenError(Exception):
    """An answer was not exactly what the upstream had sent."""


@dataclass(frozen=True)
class Answer:
    """A checked response, as the pieces in which it came: (arrival in seconds of CLOCK_MONOTONIC, end in the body)."""

    stream_id: str  # of the gateway; the other relays give none
    texts: list[str]
    body: bytes
    arrivals: list[tuple[float, int]]

    def latencies(self) -> list[float]:
        """Seconds from the sending of each token of a stamped script to its arrival."""
        pieces = iter(self.arrivals)
        arrival, received = next(pieces)
        position, found = 0, []
        for text in self.texts:
            position = self.body.index(text.encode(), position) + len(text)
            while received < position:
                arrival, received = next(pieces)
            found.append(arrival - int(text) / 1e9)
        return found


def check(parts: list[tuple[float, bytes]], told: Script) -> Answer:
    """Return the answer in these parts of a connection's input. Raises LostTokenError if it is not the script's."""
    raw = b"".join(data for _, data in parts)
    head, _, _ = raw.partition(b"\r\n\r\n")
    status, *headers = head.decode("latin-1").split("\r\n")
    if " 200 " not in status + " ":
        raise LostTokenError(f"answered {status!r}: {raw[len(head) :][:300]!r}")
    named = {name.lower(): value for name, _, value in (line.partition(": ") for line in headers)}
    body, arrivals = _unchunk(raw, len(head) + 4, parts)
    texts, finishes, done = _read(body)
    if told.kind == "stamped":
        right = len(texts) == told.tokens and texts == sorted(texts)
    else:
        right = texts == [word(number) for number in range(told.tokens)]
    if not right:
        raise LostTokenError(f"{len(texts)} of {told.tokens} tokens of {told.kind}, or not in order; {body[-300:]!r}")
    if not done or finishes != ["stop"]:
        raise LostTokenError(f"no right ending: finished {finishes}, [DONE] {done}; {body[-300:]!r}")
    return Answer(named.get("x-stream-id", ""), texts, body, arrivals)


def _unchunk(raw: bytes, start: int, parts: list[tuple[float, bytes]]) -> tuple[bytes, list[tuple[float, int]]]:
    """Return the body without HTTP's chunks, and how far in the body each part of the input ended."""
    pieces: list[bytes] = []
    arrivals: list[tuple[float, int]] = []
    remaining = iter(parts)
    arrival, data = next(remaining)
    received, length = len(data), 0
    while True:
        end = raw.find(b"\r\n", start)
        if end < 0:
            raise LostTokenError("the answer ends inside HTTP's framing")
        size = int(raw[start:end].split(b";")[0], 16)
        start = end + 2
        if size == 0:
            break
        while received < start + size:  # a chunk may come in several parts
            if received > start:
                arrivals.append((arrival, length + received - start))
            arrival, data = next(remaining, (0.0, b""))
            if not data:
                raise LostTokenError("the answer ends inside a chunk")
            received += len(data)
        pieces.append(raw[start : start + size])
        start, length = start + size + 2, length + size
        arrivals.append((arrival, length))
    return b"".join(pieces), arrivals


def _read(body: bytes) -> tuple[list[str], list[str], bool]:
    """Return the texts, the finish reasons, and whether the last event was [DONE]."""
    texts: list[str] = []
    finishes: list[str] = []
    done = False
    for line in body.split(b"\n"):
        if not line.startswith(b"data: "):
            continue
        done = line == b"data: [DONE]"
        if done:
            continue
        for choice in orjson.loads(line[6:]).get("choices", ()):
            if text := choice["delta"].get("content"):
                texts.append(text)
            if reason := choice["finish_reason"]:
                finishes.append(reason)
    return texts, finishes, done
