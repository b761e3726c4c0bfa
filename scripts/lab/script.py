"""The answers of a load's upstream, by the name of the model. The client checks its answers against the same.

| model | the stream |
|---|---|
| ``paced-RATE-TOKENS`` | RATE tokens a second |
| ``stamped-RATE-TOKENS`` | the same, each token being the moment it was sent (CLOCK_MONOTONIC, ns) |
| ``flood-TOKENS`` | each token a write of its own, as fast as the reader takes them |
| ``short-TOKENS`` | everything in one write |
| ``idle`` | one token, then an open connection |
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from .reader import LAST_CHUNK, request

QUESTION = [{"role": "user", "content": "Tell me about the weather on the sea."}]
CHAT = "/v1/chat/completions"
FIELDS: dict[str, dict[str, Any]] = {  # the question, in the dialect of each path
    CHAT: {"messages": QUESTION},
    "/v1/responses": {"input": QUESTION},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 100_000},
}

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
TOKEN = b'"content":" '  # in data that holds a token's text. That begins with a space; the role chunk has an empty one
STAMP_DIGITS = 18


@dataclass(frozen=True)
class Script:
    """The stream of one model. Every part is ready to be written, inside HTTP's chunks."""

    kind: str
    tokens: int
    rate: int = 0  # tokens per second; 0: unpaced
    opening: bytes = field(default=b"", repr=False)  # response head and role chunk
    frames: tuple[bytes, ...] = field(default=(), repr=False)  # one per token; a stamped script has one pattern
    finish: bytes = field(default=b"", repr=False)
    usage: bytes = field(default=b"", repr=False)
    done: bytes = field(default=b"", repr=False)  # [DONE] and HTTP's last chunk

    def ending(self, *, with_usage: bool) -> bytes:
        """Return everything after the last token."""
        return self.finish + (self.usage if with_usage else b"") + self.done


def question(port: int, path: str, model: str, tag: str = "", fields: Iterable[str] = ()) -> bytes:
    """Build a request for the stream of a model, in the dialect of the path. Each field is a whole line."""
    body = {"model": model, "stream": True, **FIELDS[path], **({"user": tag} if tag else {})}
    return request(f"127.0.0.1:{port}", path, body, fields)


def word(number: int) -> str:
    """Return the text of token `number`, from 0. All differ and have the same length, so that a lost one shows."""
    return f" t{number:05d}"


@cache
def script(model: str) -> Script:
    """Return the script of a model. Raises ValueError if there is none."""
    match model.split("-"):
        case ["paced" | "stamped" as kind, rate, tokens]:
            shape = Script(kind, int(tokens), int(rate))
        case ["flood" | "short" as kind, tokens]:
            shape = Script(kind, int(tokens))
        case ["idle"]:
            shape = Script("idle", 1)
        case _:
            raise ValueError(f"no script for the model {model!r}")
    words = ["%0*d"] if shape.kind == "stamped" else [word(number) for number in range(shape.tokens)]
    return Script(
        shape.kind,
        shape.tokens,
        shape.rate,
        opening=HEAD + _chunk(_delta(model, '{"role":"assistant","content":""}')),
        frames=tuple(_chunk(_delta(model, f'{{"content":"{text}"}}')) for text in words),
        finish=_chunk(_delta(model, "{}", '"stop"')),
        usage=_chunk(
            f'{_start(model)},"choices":[],"usage":{{"prompt_tokens":9,"completion_tokens":{shape.tokens},'
            f'"total_tokens":{shape.tokens + 9}}}}}'
        ),
        done=_chunk("[DONE]") + LAST_CHUNK,
    )


def frame_size(model: str) -> int:
    """Return the bytes of a token's frame, `data: …` and the blank line, without HTTP's framing."""
    return int(script(model).frames[0].partition(b"\r\n")[0], 16)


def stamped(pattern: bytes, nanoseconds: int) -> bytes:
    """Build the frame of a stamped script for this moment. It always has the same length."""
    return pattern % (STAMP_DIGITS, nanoseconds)


def _start(model: str) -> str:
    return (
        '{"id":"chatcmpl-Bq7pZ1tT0b7cQ0h3yT9uXn2kLmWvE","object":"chat.completion.chunk",'
        f'"created":1760000000,"model":"{model}"'
    )


def _delta(model: str, delta: str, finish_reason: str = "null") -> str:
    return f'{_start(model)},"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish_reason}}}]}}'


def _chunk(data: str) -> bytes:
    """Wrap data into one SSE frame inside one HTTP chunk."""
    frame = f"data: {data}\n\n".encode()
    # The stamp's pattern is shorter than the stamp.
    length = len(frame) + (STAMP_DIGITS - len("%0*d") if "%0*d" in data else 0)
    return b"%x\r\n%b\r\n" % (length, frame)
