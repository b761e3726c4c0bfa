"""Checks every token of a received answer. A relay that loses or repeats one gets no figure."""

from dataclasses import dataclass
from typing import Any

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
    """Return the texts, the finish reasons in chat's words, and whether the last event was that of its dialect."""
    texts: list[str] = []
    finishes: list[str] = []
    done = False
    for line in body.split(b"\n"):
        if not line.startswith(b"data: "):
            continue
        done = line in (b"data: [DONE]", b'data: {"type":"message_stop"}')
        if not done:
            text, finish = _said(orjson.loads(line[6:]))
            texts += [text] if text else []
            finishes += [finish] if finish else []
    return texts, finishes, done


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
