"""Claims and creations of which nobody knows whether the Redis server has made them: they are given back.

Such a log would be ours as long as this instance lives, though nothing here knows of it, and nobody could claim it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from server.stores.redis.log import RedisLog
from server.stores.redis.server import Server

PATIENCE = 1.0  # seconds for one try to give back: another follows soon


class Doubtful:
    """What the server may say that the instance `name` holds, beside what is `held`."""

    def __init__(self, server: Server, name: str, held: Mapping[str, RedisLog]) -> None:
        self._server = server
        self._name = name
        self._held = held
        self._under_way: Counter[str] = Counter()
        self._ids: set[str] = set()

    @contextmanager
    def unless_held(self, stream_id: str) -> Iterator[None]:
        """Doubt that a log is not ours where the block, which makes it so and holds it, does not come to its end."""
        self._under_way[stream_id] += 1
        try:
            yield
        except BaseException:
            self._ids.add(stream_id)
            raise
        finally:
            self._under_way[stream_id] -= 1
            if not self._under_way[stream_id]:
                del self._under_way[stream_id]

    async def give_back(self) -> None:
        """Let others claim what is ours without being held; delete what nobody has begun. Raises StoreError.

        Nothing is given back but the epoch that was read, while no claim was under way: a later claim keeps its log.
        """
        looked_at = {one for one in self._ids if one not in self._under_way}
        if not looked_at:
            return
        self._ids -= looked_at
        try:
            ours = await self._ours(list(looked_at))
            if ours:
                await self._server.script("disown", self._name, *ours, patience=PATIENCE)
        except BaseException:
            self._ids |= looked_at
            raise

    async def _ours(self, ids: list[str]) -> list[str]:
        """Return those that are ours without being held, each with its epoch after it."""
        ours: list[str] = []
        facts = await self._server.logs(ids, ("instance", "epoch"), PATIENCE)
        for one, (holder, epoch) in zip(ids, facts, strict=True):
            held = self._held.get(one)
            known = one in self._under_way or (held is not None and held.epoch >= int(epoch or 0))
            if holder == self._name.encode() and epoch is not None and not known:
                ours += (one, epoch.decode())
        return ours
