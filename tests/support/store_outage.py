"""What clients and operators see while a store is away: clients that check every id and byte, and checks of /readyz."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import wire

COUNT = 300
CHUNKS = [
    json.dumps({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]},
               separators=(",", ":"))
    for n in range(COUNT)
]  # fmt: skip
END = CHUNKS[-1].replace('{"content":"word299 "}', "{}").replace("null", '"stop"')
SENT = [chunk.encode() for chunk in [*CHUNKS, END, "[DONE]"]]  # every byte of the upstream's payloads
QUICK = {"chunks": [*CHUNKS, END]}
LONG = {**QUICK, "rate": 10}  # half a minute: a fault comes in mid-stream
STREAMS = 3


class CheckedClient:
    """A client of one stream that comes back, and keeps the events that it was shown."""

    connection: wire.Client  # the newest one

    def __init__(self) -> None:
        self.events: list[wire.Event] = []
        self.faults: list[dict[str, Any]] = []  # errors without an id, which are in no log
        self.path = ""

    async def begin(self, root: str, model: str, headers: Mapping[str, str] | None = None) -> None:
        """Begin the stream; return when its third event is there."""
        self.connection = wire.Client(root)
        await self.connection.__aenter__()
        await self.connection.complete(model, headers=headers)
        status, head = await self.connection.head()
        assert status == 200
        self.path = f"/v1/streams/{head['x-stream-id']}"
        await self.connection.events(3)

    async def rest(self) -> None:
        """Read to the proper end of the response."""
        while await self.connection.more():
            pass
        self.connection.leave()
        blocks = self.connection.body.replace(wire.COMMENT, b"").split(b"\n\n")
        assert blocks.pop() == b""
        for block in blocks:
            if block.startswith(b"data: "):
                self.faults.append(json.loads(block[6:])["error"])
            else:
                self.events += wire.events_of(block + b"\n\n")

    async def resume(self, root: str) -> None:
        """Ask for what it has not been shown yet, and read that."""
        self.connection = wire.Client(root)
        await self.connection.__aenter__()
        await self.connection.ask("GET", self.path, headers={"Last-Event-ID": str(self.events[-1].id)})
        status, _ = await self.connection.head()
        assert status == 200
        await self.rest()

    def check(self) -> None:
        """Check every id, and every byte."""
        assert [event.id for event in self.events] == list(range(1, len(self.events) + 1))
        assert [event.data for event in self.events] == SENT[: len(self.events)]


async def start_streams(root: str, model: str, headers: Mapping[str, str] | None = None) -> list[CheckedClient]:
    """Begin three streams; return their clients, each of which has been shown some tokens."""
    clients = [CheckedClient() for _ in range(STREAMS)]
    for client in clients:
        await client.begin(root, model, headers)
    return clients


async def check_stopped(clients: Iterable[CheckedClient]) -> None:
    """Check that each stream stops with `store_unavailable` behind whole ids."""
    for client in clients:
        await client.rest()
        client.check()
        assert len(client.events) < len(SENT)
        assert [fault["code"] for fault in client.faults] == ["store_unavailable"]


UNREADY = {"status": "store unavailable"}  # what everybody may know


async def check_unready(root: str, words: str, logged: Callable[[str], list[dict[str, Any]]]) -> None:
    """Check that `/readyz` is 503 without details, each time it is asked, and that requests are refused.

    The log says in these words what is wrong. `logged` gives its lines of one event.
    """
    for _ in range(3):
        answer = await wire.call(root, "GET", "/readyz")
        assert (answer.status, answer.json) == (503, UNREADY)
    assert [words in line["error"] for line in logged("store unavailable")][-1:] == [True]
    refused = await wire.complete(root, "any")
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
    assert "retry-after" in refused.headers
    assert (await wire.call(root, "GET", "/healthz")).status == 200


async def check_resumed(root: str, model: str, clients: Iterable[CheckedClient]) -> None:
    """Check that the gateway gets well: `/readyz` is 200, every client gets its rest, and a new stream is whole."""

    async def ready() -> bool:
        return (await wire.call(root, "GET", "/readyz")).status == 200

    await wire.until(ready)
    for client in clients:
        await client.resume(root)
        client.check()
        assert len(client.events) == len(SENT)
        again = await wire.call(root, "GET", client.path)
        assert again.events == client.events
    fresh = await wire.complete(root, model)
    assert [event.data for event in fresh.events] == SENT
    assert [event.id for event in fresh.events] == list(range(1, len(SENT) + 1))


async def until_ended(root: str, client: CheckedClient) -> str:
    """Wait until a stream has ended; return its state."""

    async def ending() -> str | None:
        answer = await wire.call(root, "GET", client.path, headers={"Accept": "application/json"})
        state: str = answer.json["state"]
        return state if state not in ("starting", "streaming", "recovering") else None

    state: str = await wire.until(ending)
    return state
