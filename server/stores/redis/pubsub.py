"""Pub/sub of the Redis store: it wakes who waits for a log, and tells who loses one. Nothing relies on it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from server.aio.cancelling import cancel
from server.stores.ownership import Ownership

PAUSE = 0.2  # seconds between two tries to listen


class PubSub:
    """Listens to the claims of all logs, and to the news of the logs that somebody follows here."""

    def __init__(self, client: "redis.asyncio.Redis", prefix: str, ownership: Ownership[Any]) -> None:
        self._pubsub: Any = client.pubsub(ignore_subscribe_messages=True)
        self._claims = f"{prefix}claims"
        self._prefix = f"{prefix}news:"
        self._ownership = ownership
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to listen. Raises RedisError."""
        await self._pubsub.subscribe(self._claims)
        self._task = asyncio.create_task(self._listen(), name="redis pubsub")

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            await cancel([self._task])
        await self._pubsub.aclose()

    @contextmanager
    def news_of(self, stream_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when there is news of a stream."""
        event = asyncio.Event()
        self._waiting.setdefault(stream_id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[stream_id].discard(event)
            if not self._waiting[stream_id]:
                del self._waiting[stream_id]

    async def _listen(self) -> None:
        subscribed: set[str] = set()
        while True:
            try:
                subscribed = await self._subscribe(subscribed)
                message = await self._pubsub.get_message(timeout=PAUSE)
                if message is not None:
                    self._take(message["channel"].decode(), message["data"].decode())
            except (RedisError, OSError):
                self._ownership.missed()  # a claim may go unheard
                await asyncio.sleep(PAUSE)
            except ValueError:
                pass  # it is not one of ours: anybody can write to a channel

    async def _subscribe(self, subscribed: set[str]) -> set[str]:
        """Listen to the logs that somebody waits for. Followers look on a timer, too, so this may be late."""
        wanted = set(self._waiting)
        if new := [self._prefix + one for one in wanted - subscribed]:
            await self._pubsub.subscribe(*new)
        if old := [self._prefix + one for one in subscribed - wanted]:
            await self._pubsub.unsubscribe(*old)
        return wanted

    def _take(self, channel: str, data: str) -> None:
        if channel == self._claims:
            stream_id, _, epoch = data.partition(" ")
            self._ownership.heard(stream_id, int(epoch))
            return
        for event in self._waiting.get(channel.removeprefix(self._prefix), ()):
            event.set()
