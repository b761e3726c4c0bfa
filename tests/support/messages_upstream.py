"""An upstream that speaks the Messages API, and says what its scripts say."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from aiohttp import web

USAGE = {"input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 1}


class Asked(NamedTuple):
    """One request that came in; names of headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Answer:
    """One answer: events, of which `cut_after` are sent before the connection breaks; or the JSON of `status`."""

    events: Sequence[dict[str, Any]] = ()
    cut_after: int | None = None
    status: int = 200
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class MessagesUpstream:
    """A running upstream. `async with MessagesUpstream() as upstream` starts and stops it on this event loop."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, list[Asked]] = defaultdict(list)
        self._answers: dict[str, list[Answer]] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.post("/v1/messages", self._answer), web.post("/v1/messages/count_tokens", self._answer)])
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def script(self, model: str, *answers: Answer) -> None:
        """Answer the i-th request for the model with the i-th answer, and all further ones with the last."""
        self._answers[model] = list(answers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen = self.seen[body["model"]]
        seen.append(Asked(request.path, {name.lower(): value for name, value in request.headers.items()}, body))
        answers = self._answers[body["model"]]
        answer = answers[min(len(seen), len(answers)) - 1]
        if answer.json is not None:
            return web.json_response(answer.json, status=answer.status, headers=answer.headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **answer.headers})
        await response.prepare(request)
        for count, event in enumerate(answer.events):
            if count == answer.cut_after:
                break
            await response.write(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()))
        if answer.cut_after is not None:
            assert request.transport is not None
            await asyncio.sleep(0)
            request.transport.close()
        return response


def text(*pieces: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a message with one block of text."""
    return message({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces], **fields)


def message(*blocks: Any, stop: str = "end_turn", sequence: str | None = None) -> list[dict[str, Any]]:
    """Return the events of a message: of each block its start, then its deltas."""
    start: dict[str, Any] = {
        "id": "msg_up", "type": "message", "role": "assistant", "model": "claude-up", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, (block, deltas) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": stop, "stop_sequence": sequence}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}})
    return [*events, {"type": "message_stop"}]
