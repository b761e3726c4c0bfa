"""A client that comes back, for tests of streams that outlive a process."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import wire

PATIENCE = 40.0  # seconds for a stream to be whole, on a busy machine


class ResumingClient:
    """Reads one stream to its ending over any number of connections, and keeps the events that it was shown.

    `roots` gives the gateways to try at this moment.
    """

    connection: wire.Client  # the first one

    def __init__(self, roots: Callable[[], list[str]]) -> None:
        self._roots = roots
        self.events: list[wire.Event] = []
        self.stream_id = ""
        self.cuts = 0
        self.statuses: list[int] = []

    @property
    def last(self) -> int:
        """The last id shown."""
        return self.events[-1].id if self.events else 0

    @property
    def text(self) -> str:
        """All content."""
        return "".join(wire.texts([event for event in self.events if b'"error"' not in event.data]))

    @property
    def over(self) -> bool:
        """Whether the ending was shown."""
        return bool(self.events) and (self.events[-1].data == b"[DONE]" or b'"error"' in self.events[-1].data)

    async def begin(self, root: str, model: str, **fields: Any) -> None:
        """Begin the stream and return when its first event is there; `run` goes on."""
        headers = {"X-On-Disconnect": "continue", **fields.pop("headers", {})}
        self.connection = wire.Client(root)
        await self.connection.__aenter__()
        await self.connection.complete(model, headers=headers, **fields)
        status, head = await self.connection.head()
        assert status == 200, status
        self.stream_id = head["x-stream-id"]
        await self.connection.events(1)

    async def run(self) -> None:
        """Read to the ending, over as many connections as that takes. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            await self._read(self.connection)
            turn = 0
            while not self.over:
                roots = self._roots()
                turn += 1
                if roots:
                    await self.resume(roots[turn % len(roots)])
                await asyncio.sleep(0.05)

    async def _read(self, client: wire.Client) -> None:
        before = self.last
        try:
            while await client.more():
                pass
        except (wire.CutError, ConnectionError):
            self.cuts += 1
        finally:
            client.close()
        whole = b"".join(client.body.rpartition(b"\n\n")[:2])  # nothing of a first event that was cut
        self.events += [event for event in wire.events_of(whole) if event.id > before or not event.id]

    async def resume(self, root: str) -> None:
        """Ask a gateway for what was not shown yet, and read that."""
        client = wire.Client(root)
        try:
            await client.__aenter__()
            await client.ask("GET", f"/v1/streams/{self.stream_id}", headers={"Last-Event-ID": str(self.last)})
            status, _ = await client.head()
        except (OSError, wire.CutError):
            return
        self.statuses.append(status)
        if status == 200:
            await self._read(client)
        else:
            client.close()

    def check(self, text: str) -> None:
        """Check that no event is lost, repeated or altered: all ids, the text, the one id of the completion."""
        assert [event.id for event in self.events] == list(range(1, len(self.events) + 1))
        assert self.events[-1].data == b"[DONE]", self.events[-1]
        assert self.text == text
        first = json.loads(self.events[0].data)["id"]
        assert {json.loads(event.data)["id"] for event in self.events[:-1]} == {first}
