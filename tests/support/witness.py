"""Clients that check every id and every byte while a store is away, and what a gateway says of that."""

import json

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


class Witness:
    """A client of one stream that comes back, and keeps what it was shown."""

    def __init__(self) -> None:
        self.events = []
        self.faults = []  # errors that are in no log
        self.path = ""

    async def begin(self, root, model, headers=None):
        """Begin the stream; return when its third event is there."""
        self.client = wire.Client(root)
        await self.client.__aenter__()
        await self.client.complete(model, headers=headers)
        status, head = await self.client.head()
        assert status == 200
        self.path = f"/v1/streams/{head['x-stream-id']}"
        await self.client.events(3)

    async def rest(self):
        """Read to the proper end of the response."""
        while await self.client.more():
            pass
        self.client.leave()
        blocks = self.client.body.replace(wire.COMMENT, b"").split(b"\n\n")
        assert blocks.pop() == b""
        for block in blocks:
            if block.startswith(b"data: "):
                self.faults.append(json.loads(block[6:])["error"])
            else:
                self.events += wire.events_of(block + b"\n\n")

    async def resume(self, root):
        """Ask for what it has not been shown yet, and read that."""
        self.client = wire.Client(root)
        await self.client.__aenter__()
        await self.client.ask("GET", self.path, headers={"Last-Event-ID": str(self.events[-1].id)})
        status, _ = await self.client.head()
        assert status == 200
        await self.rest()

    def check(self):
        """Check every id, and every byte."""
        assert [event.id for event in self.events] == list(range(1, len(self.events) + 1))
        assert [event.data for event in self.events] == SENT[: len(self.events)]


async def begun(root, model, headers=None):
    """Give streams that have been shown some tokens."""
    witnesses = [Witness() for _ in range(STREAMS)]
    for witness in witnesses:
        await witness.begin(root, model, headers)
    return witnesses


async def stopped(witnesses):
    """Each stream ends with a typed error behind whole ids."""
    for witness in witnesses:
        await witness.rest()
        witness.check()
        assert len(witness.events) < len(SENT)
        assert [fault["code"] for fault in witness.faults] == ["store_unavailable"]


async def unready(root, words):
    """`/readyz` says in words what is wrong, each time that it is asked; new streams are refused."""
    for _ in range(3):
        answer = await wire.call(root, "GET", "/readyz")
        assert answer.status == 503
        assert words in answer.json["status"]
    refused = await wire.complete(root, "any")
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
    assert "retry-after" in refused.headers
    assert (await wire.call(root, "GET", "/healthz")).status == 200


async def mended(root, model, witnesses):
    """`/readyz` is 200 again, every client gets the rest of its stream, and a new stream is whole."""

    async def ready():
        return (await wire.call(root, "GET", "/readyz")).status == 200

    await wire.until(ready)
    for witness in witnesses:
        await witness.resume(root)
        witness.check()
        assert len(witness.events) == len(SENT)
        again = await wire.call(root, "GET", witness.path)
        assert again.events == witness.events
    fresh = await wire.complete(root, model)
    assert [event.data for event in fresh.events] == SENT
    assert [event.id for event in fresh.events] == list(range(1, len(SENT) + 1))


async def over(root, witness):
    """Wait for the ending; give the state that it has brought."""

    async def state():
        found = await wire.call(root, "GET", witness.path, headers={"Accept": "application/json"})
        return found.json["state"] if found.json["state"] not in ("starting", "streaming", "recovering") else None

    return await wire.until(state)
