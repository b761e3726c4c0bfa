"""A short run of scripts/chaos with each durable store, and what its client for Messages notices."""

import json
import random
import re
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from chaos_test.__main__ import CLIENTS
from chaos_test.messages_client import MessagesClient

from server.core.openai.sse import frame

CHAOS = Path(__file__).parent.parent.parent / "scripts" / "chaos"
MUST_BE_ZERO = ("lost", "repeated", "altered", "truncated", "unfinished")


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_nothing_is_lost(store):
    """Through nginx and two gateways that are killed, stopped and restarted, every text comes whole and once."""
    command = [CHAOS, "--seconds", "8", "--streams", "20", "--pause", "1.5", "--store", store, "--seed", "11"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    rows = dict(re.findall(r"\| \**([^|*]+?)\** \| \**(\d+)\** \|", ran.stdout))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {name: rows[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, "0")
    assert int(rows["streams"]) >= 20
    assert int(rows["streams"]) == int(rows["streams with a fault of their own"])
    assert any(name.startswith(("gateway", "redis")) for name in rows), "a process was broken"
    assert all(int(rows[f"streams of {client.path}"]) for client in CLIENTS)


def delta(text, index=0):
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


START = {"type": "message_start", "message": {}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
STOP = {"type": "content_block_stop", "index": 0}
LAST = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}
END = {"type": "message_stop"}
PING = {"type": "ping"}
ERROR = {"type": "error", "error": {"type": "api_error", "message": "it failed"}}
MESSAGE = [START, BLOCK, delta("one "), PING, delta("two "), STOP, LAST, END]


async def verdict_on(aiohttp_server, records):
    """Show a client these records, (number, event) each, and whoever comes back a 404; return what it finds wrong."""

    async def play(_):
        body = b"".join(frame(number, json.dumps(event).encode()) for number, event in records)
        return web.Response(body=body, headers={"X-Stream-Id": "strm_1"})

    app = web.Application()
    app.router.add_post("/v1/messages", play)
    port = (await aiohttp_server(app)).port
    verdict = await MessagesClient(port, "model", "one two ", random.Random(0)).run()
    return {name for name in MUST_BE_ZERO if getattr(verdict, name)}


async def test_a_whole_message_is_right(aiohttp_server):
    """A message with a ping in it has nothing wrong."""
    assert await verdict_on(aiohttp_server, enumerate(MESSAGE, 1)) == set()


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([*enumerate(MESSAGE[:3], 1), *enumerate(MESSAGE[4:], 5)], {"lost"}),
        ([*enumerate(MESSAGE[:4], 1), (4, PING), *enumerate(MESSAGE[4:], 5)], {"repeated"}),
        (enumerate([START, *MESSAGE], 1), {"altered"}),
        (enumerate([*MESSAGE[:4], BLOCK, *MESSAGE[4:]], 1), {"altered"}),
        (enumerate([*MESSAGE[:4], delta("two ", 1), *MESSAGE[5:]], 1), {"altered"}),
        (enumerate([*MESSAGE[:6], BLOCK, STOP, LAST, END], 1), {"altered"}),
        (enumerate([*MESSAGE[:5], LAST, END], 1), {"altered"}),
        (enumerate([*MESSAGE[:6], END], 1), {"altered"}),
        (enumerate([*MESSAGE[:6], LAST, LAST, END], 1), {"altered"}),
        (enumerate([*MESSAGE[:5], delta("two "), *MESSAGE[5:]], 1), {"altered"}),
        (enumerate([*MESSAGE[:4], delta("too "), *MESSAGE[5:]], 1), {"altered"}),
        (enumerate([*MESSAGE[:4], *MESSAGE[5:]], 1), {"truncated"}),
        (enumerate([*MESSAGE[:4], ERROR], 1), {"truncated"}),
        (enumerate(MESSAGE[:-1], 1), {"unfinished"}),
    ],
    ids=["number missing", "number twice", "two starts", "block in a block", "wrong index", "index twice", "open block",
         "no message_delta", "two message_delta", "text twice", "another text", "text missing", "error", "no end"],
)  # fmt: skip
async def test_a_damaged_message_is_noticed(aiohttp_server, records, found):
    """Each kind of damage has its column in the table."""
    assert await verdict_on(aiohttp_server, records) == found
