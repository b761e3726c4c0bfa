"""The answer of a script to one request, as SSE events or as one JSON completion. It does no I/O."""

import itertools
import random
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from orjson import dumps

from scripted.script import AUTO, Script

_WORD = re.compile(r"\S+\s*|\s+")
_SEEDED = ("river ", "lock ", "gate ", "straße ", "水 ", "🌊", "flow", "\n", "  ", "“sluice” ", "a", "weir, ")
_ROLE = b'{"role":"assistant","content":""}'
_EMPTY = b"{}"


class Completion:
    """One answer: its events in their order. `tokens` counts those that were taken so far."""

    def __init__(self, script: Script, request: dict[str, Any], number: int) -> None:
        self.script = script
        self.prefill = prefilled(request)
        self._request = request
        self.tokens = 0
        self._cut_short = False
        self._choices = range(request.get("n") or 1)
        self._line_end = script.newline.encode()
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-scripted{number:08d}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": script.model_echo or request["model"],
        }
        if script.system_fingerprint is not None:
            self._head["system_fingerprint"] = script.system_fingerprint
        self._opening = b"data: " + dumps(self._head)[:-1] + b',"choices":['
        self._closing = self._line_end * 2

    # The events of a stream, in their order.

    def opening(self) -> Iterator[bytes]:
        """Yield the role chunks, one per choice."""
        wanted = self.script.role_chunk
        if self.script.chunks is None if wanted is None else wanted:
            for choice in self._choices:
                yield self._chunk(choice, _ROLE)

    def content(self) -> Iterator[bytes]:
        """Yield every content chunk. Each is built when it is taken, so that millions of them need no memory."""
        if self.script.chunks is not None:
            for chunk in self.script.chunks:
                self.tokens += 1
                yield self.event(chunk if isinstance(chunk, str) else dumps(chunk).decode())
            return
        for text in self.script.reasoning or ():
            delta = dumps({"reasoning_content": text})
            for choice in self._choices:
                self.tokens += 1
                yield self._chunk(choice, delta)
        yield from self._text_chunks()
        for call in tool_deltas(self.script):
            for choice in self._choices:
                self.tokens += 1
                yield self._chunk(choice, dumps({"tool_calls": [call]}))

    def closing(self) -> Iterator[bytes]:
        """Yield the finish chunks, the usage and `[DONE]`, as far as the script wants them."""
        if (reason := self._finish_reason()) is not None:
            for choice in self._choices:
                yield self._chunk(choice, _EMPTY, finish=dumps(reason))
        wants_usage = (
            bool((self._request.get("stream_options") or {}).get("include_usage")) and self.script.chunks is None
        )
        if wants_usage if self.script.usage is None else self.script.usage:
            yield self._opening + b'],"usage":' + dumps(self._usage()) + b"}" + self._closing
        if self.script.done:
            yield self.event("[DONE]")

    def event(self, data: str) -> bytes:
        """Frame data as an event."""
        return b"data: " + data.encode() + self._closing

    def comment(self) -> bytes:
        """Give a keep-alive comment, closed by a blank line as most providers do."""
        return b": keep-alive" + self._closing

    def whole(self) -> bytes:
        """Give the answer to a request that does not stream."""
        choices = []
        for choice in self._choices:
            texts = list(self._texts(choice))
            self.tokens += len(texts)
            message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
            if self.script.reasoning:
                message["reasoning_content"] = "".join(self.script.reasoning)
            if self.script.tool_calls:
                message["tool_calls"] = [
                    {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": arguments(c)}}
                    for c in calls(self.script)
                ]
            choices.append(
                {"index": choice, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}
            )
        answer = self._head | {"object": "chat.completion", "choices": choices}
        if self.script.usage is not False:
            answer["usage"] = self._usage()
        return dumps(answer)

    # The parts.

    def _text_chunks(self) -> Iterator[bytes]:
        if len(self._choices) == 1 and not self.script.logprobs:
            # Benchmarks take this path: a token costs one join of three byte strings.
            before = self._opening + b'{"index":0,"delta":{"content":'
            after = b'},"logprobs":null,"finish_reason":null}]}' + self._closing
            for piece in self._texts(0):
                self.tokens += 1
                yield before + dumps(piece) + after
            return
        for row in itertools.zip_longest(*(self._texts(choice) for choice in self._choices)):
            for choice, piece in enumerate(row):
                if piece is not None:
                    self.tokens += 1
                    yield self._chunk(choice, dumps({"content": piece}), logprobs=self._logprobs(piece))

    def _texts(self, choice: int) -> Iterator[str]:
        """Yield the pieces of one choice, after continuation, echo and `max_tokens`."""
        script = self.script
        texts = pieces(script, choice)
        prefill = self.prefill
        if script.continue_text and prefill is not None and "".join(pieces(script, choice)).startswith(prefill):
            texts = without_beginning(texts, len(prefill))
        if script.echo_prefix and prefill:
            texts = itertools.chain((prefill,), texts)
        limit = self._request.get("max_completion_tokens") or self._request.get("max_tokens")
        if script.honour_max_tokens and limit is not None:
            yield from itertools.islice(texts, limit)
            self._cut_short = next(texts, None) is not None
        else:
            yield from texts

    def _finish_reason(self) -> str | None:
        if self.script.finish != AUTO:
            return self.script.finish
        if self._cut_short:
            return "length"
        if self.script.chunks is not None:
            return None
        return "tool_calls" if self.script.tool_calls else "stop"

    def _usage(self) -> dict[str, int]:
        prompt = sum(len(text_of(message).split()) for message in self._request["messages"])
        return {"prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": prompt + self.tokens}

    def _logprobs(self, piece: str) -> bytes:
        if not self.script.logprobs:
            return b"null"
        token = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode()), "top_logprobs": []}
        return dumps({"content": [token], "refusal": None})

    def _chunk(self, choice: int, delta: bytes, *, logprobs: bytes = b"null", finish: bytes = b"null") -> bytes:
        return self._opening + b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]}%b' % (
            choice,
            delta,
            logprobs,
            finish,
            self._closing,
        )


def pieces(script: Script, choice: int) -> Iterator[str]:
    """Yield the text of a script in pieces. Only a text that is made up differs from choice to choice."""
    if script.pieces is not None:
        return iter(script.pieces)
    if script.text is not None:
        return (match[0] for match in _WORD.finditer(script.text))
    count = script.tokens if script.tokens is not None else 0 if script.tool_calls else 20
    if script.seed_text is not None:
        chance = random.Random(f"{script.seed_text}/{choice}")  # noqa: S311  # it must be reproducible
        return (chance.choice(_SEEDED).ljust(script.big, "x") for _ in range(count))
    mark = f".{choice} " if choice else " "
    return (f"tok{i}{mark}".ljust(script.big, "x") for i in range(count))


def without_beginning(texts: Iterable[str], length: int) -> Iterator[str]:
    """Yield the pieces without their first `length` characters."""
    for piece in texts:
        if length < len(piece):
            yield piece[length:]
        length = max(0, length - len(piece))


def calls(script: Script) -> list[dict[str, Any]]:
    """Give the tool calls of a script, each with an index and an id."""
    numbered = enumerate(script.tool_calls or ())
    return [{"index": index, "id": f"call_{index}", "name": f"tool{index}"} | call for index, call in numbered]


def tool_deltas(script: Script) -> Iterator[dict[str, Any]]:
    """Yield the deltas of all tool calls: id and name once, then the arguments in pieces."""
    streams = [_tool_call(call, script.tool_piece) for call in calls(script)]
    if not script.interleave:
        return itertools.chain.from_iterable(streams)
    rows = itertools.zip_longest(*streams)
    return (delta for row in rows for delta in row if delta is not None)


def _tool_call(call: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    index, text = call["index"], arguments(call)
    yield {"index": index, "id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": ""}}
    for start in range(0, len(text), size):
        yield {"index": index, "function": {"arguments": text[start : start + size]}}


def arguments(call: dict[str, Any]) -> str:
    """Give the arguments of a call as the text that goes over the wire."""
    value = call.get("arguments", "")
    return value if isinstance(value, str) else dumps(value).decode()


def prefilled(request: dict[str, Any]) -> str | None:
    """Give the text of a last message of the assistant, which every form of continuation has. None: there is none."""
    last = request["messages"][-1] if request["messages"] else {}
    return text_of(last) if last.get("role") == "assistant" else None


def text_of(message: dict[str, Any]) -> str:
    """Give the text of a message, whether it is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
