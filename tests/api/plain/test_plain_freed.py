"""A request of a plain path is freed by reference counting alone, with its body, however it ended."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from plain_upstream import cuts, form, hangs_up, over, refuses, refuses_early, says, silent, streams
from wire import Client, CutError, request, until

from server.api.plain import outgoing
from server.api.plain.answer import Answer
from server.api.plain.attempts import Attempt, Attempts
from server.api.plain.exchange import Exchange
from server.api.plain.kept import Kept
from server.api.plain.outgoing import JsonBody, Upload

WATCHED = (Exchange, Attempts, Attempt, Answer, Kept, JsonBody, Upload)
SECONDS = 10.0
AUDIO = "/v1/audio/transcriptions"
JSON = request("POST", "/v1/completions", {"model": "m", "prompt": "Hi", "stream": True})
FORM = request("POST", AUDIO, *form(size=500_000))
LATE = request("POST", AUDIO, *form(size=5_000_000, model_last=True))
BROKEN = request("POST", AUDIO, *form(size=500_000))[:-10] + b"x" * 10
ENDLESS = streams([b"data: x\n\n" * 1000] * 10_000)
OK = says({"usage": {"total_tokens": 1}})

# What the upstreams do, what the client sends, and whether it leaves after some bytes of an answer, or of its request.
WAYS = {
    "answered": ([OK], JSON, None),
    "an upload": ([OK], FORM, None),
    "an upload in a file": ([OK], LATE, None),
    "failed over": ([hangs_up, OK], FORM, None),
    "refused": ([refuses(400)], JSON, None),
    "an upload refused early": ([refuses_early], FORM, None),
    "nobody answers": ([refuses(500), hangs_up], JSON, None),
    "cut": ([cuts(500, of=1000)], JSON, None),
    "broken": ([OK], BROKEN, None),
    "left before the head": ([silent], JSON, "waiting"),
    "left in the answer": ([ENDLESS], JSON, "reading"),
    "left in the upload": ([OK], FORM, "sending"),
    "too slow": ([OK], FORM[:-1000], None),
}


def noting(initialize: Callable[..., None], references: list[weakref.ref[Any]]) -> Callable[..., None]:
    """Return a constructor that also notes the object."""

    def __init__(self: object, *values: Any, **options: Any) -> None:  # noqa: N807  # it takes the place of one
        initialize(self, *values, **options)
        references.append(weakref.ref(self))

    return __init__


@pytest.mark.parametrize("way", WAYS)
async def test_freed(way: str, monkeypatch) -> None:
    """When a request has ended, nothing of it is alive."""
    made: list[weakref.ref[Any]] = []
    for kind in WATCHED:
        monkeypatch.setattr(kind, "__init__", noting(kind.__init__, made))
    monkeypatch.setattr(outgoing, "BODY_TIMEOUT", 0.5)
    answers, wire, leaves = WAYS[way]
    async with over(*answers) as (gateway, *upstreams):
        gc.collect()
        gc.disable()
        try:
            async with Client(gateway.root) as client:
                sending = asyncio.create_task(client.send(wire if leaves != "sending" else wire[:-100_000]))
                if leaves is None:
                    try:
                        await client.answer()
                    except CutError:
                        assert way == "cut"
                elif leaves == "reading":
                    await client.head()
                    await client.more()
                else:
                    most = 1 if leaves == "waiting" else 200_000
                    await until(lambda: asyncio.sleep(0, upstreams[0].seen and upstreams[0].seen[0].size > most))
                sending.cancel()
                await asyncio.wait([sending])
            del sending
            left: list[str] = []
            for _ in range(int(SECONDS / 0.01)):
                left = [type(one).__name__ for reference in made if (one := reference()) is not None]
                if not left:
                    break
                await asyncio.sleep(0.01)
            assert made
            assert left == []
        finally:
            gc.enable()
