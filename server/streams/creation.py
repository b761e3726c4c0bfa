"""From a request to a stream: admitted, changed by the operator's functions, given a log, and begun or joined."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from server.aio.cancelling import cancel
from server.aio.threads import run_in_thread
from server.core.dialect import unopened
from server.core.errors import Rejected, StoreError
from server.core.generation import Generation, asks_usage, with_changes
from server.core.ports import Log, Store
from server.core.records import STREAM_PREFIX, Beginning
from server.relay.stream import Stream
from server.streams.admission import Admission, Owner
from server.streams.finding import Finding
from server.streams.linger import Linger
from server.streams.live import LiveStreams
from server.streams.preprocess import Preprocessing
from server.streams.routes import Routes, unknown_model
from server.upstreams.pool import Target

LARGE = 262_144  # bytes
ID_BYTES = 18  # 144 random bits
Result = TypeVar("Result")


async def _digest(generation: Generation) -> str:
    """Return a digest of a request's body as parsed: neither spaces nor the order of fields make a difference."""
    data = generation.logged.data
    if len(data) > LARGE:
        await asyncio.sleep(0)  # it takes some 10 ms, and follows on as much
    body = orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)
    if len(data) > LARGE:
        return await run_in_thread(lambda: hashlib.sha256(body).hexdigest(), name="digest")
    return hashlib.sha256(body).hexdigest()


async def _beginning(generation: Generation, owner: Owner, key: str | None) -> Beginning:
    """Return the facts that a stream starts with."""
    return Beginning(
        id=f"{STREAM_PREFIX}{secrets.token_urlsafe(ID_BYTES)}",
        owner=owner.name,
        dialect=generation.dialect,
        model=generation.model,
        created=time.time(),
        body=generation.logged.data,
        stream=generation.stream,
        policy=generation.policy,
        idempotency=(key, await _digest(generation)) if key else None,
        request_id=generation.request_id,
        choices=generation.choices,
        asks_usage=asks_usage(generation.body),
        retention=generation.retention,
        detached=generation.detached,
    )


class Creation:
    """Begins streams, or joins those that an idempotency key has begun before."""

    def __init__(
        self,
        store: Store,
        routes: Routes,
        preprocessing: Preprocessing,
        admission: Admission,
        finding: Finding,
        live: LiveStreams,
        linger: Linger,
    ) -> None:
        self._store = store
        self._routes = routes
        self._preprocessing = preprocessing
        self._admission = admission
        self._finding = finding
        self._live = live
        self._linger = linger
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def close(self) -> None:
        """Begin nothing any more. A request whose log was still being created is told that the gateway goes."""
        self._closed = True
        await cancel(self._tasks)

    def check_model(self, name: str, owner: Owner) -> None:
        """Raise Rejected 404 if for this owner there is no such model."""
        if not owner.may_ask(name) or not self._routes.has(name):
            raise unknown_model(name)

    async def create(self, generation: Generation, owner: Owner, key: str | None) -> Stream:
        """Begin a stream, or join the one that this idempotency key began.

        Raises:
            Rejected: draining, over a limit, unknown model, key used with another body.
            StoreError: the store is away.

        """
        self.check_model(generation.model, owner)
        beginning = await _beginning(generation, owner, key)
        if key is not None:
            stream = await self._finding.with_key(owner.name, key)
            if stream is not None:
                return await self._join(stream.log, beginning)  # no further generation: no limit holds it back
            self.check_model(generation.model, owner)  # a reload may have taken it away meanwhile
        with ExitStack() as holds:
            holds.enter_context(self._admission.admitted(owner, beginning))
            route = self._routes.of(generation.model)
            holds.enter_context(self._routes.held(route))
            if self._preprocessing or self._store.durable:
                self._routes.upstreams.connect_ahead(route)  # beside all that is done until the request can be sent
            if self._preprocessing:
                changed = await self._preprocessing.run(generation)
                if changed is not generation:
                    generation, further = changed, changed.source is not None
                    # The digest stays the client's own body's.
                    beginning = replace(beginning, body=with_changes(changed), changed=further)
                self._admission.check_open()
            log = await self._created(beginning, generation, route, holds)
            if log.beginning.id == beginning.id:
                return self._live.begin(self._live.stream(log), generation, route).stream
            return await self._join(log, beginning)

    async def _created(
        self, beginning: Beginning, generation: Generation, route: Sequence[Target], holds: ExitStack
    ) -> Log:
        """Create a log, or return the one that its idempotency key began. In the same turn its relay may begin.

        If the client leaves now, its log must not stay behind without anyone to end it. So the log is created in a task
        of its own, and another one begins the relay without the client. That one takes over what is held.
        """
        if not self._store.durable:
            return await self._create_log(beginning)  # never suspends, so nobody can leave meanwhile
        creating = self._start(self._create_log(beginning))
        try:
            log = await asyncio.shield(creating)
            await self._admission.pacer.take()  # a batch of logs is created at once
        except asyncio.CancelledError:
            if creating.cancelled():  # by `close`
                self._admission.check_open()
            elif not self._closed:
                self._start(self._begin_without_client(creating, beginning.id, generation, route, holds.pop_all()))
            raise
        if self._closed:  # nobody would stop its relay; a durable store lets other instances take its logs over
            self._admission.check_open()
        return log

    def _start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Return a task that `close` cancels."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _create_log(self, beginning: Beginning) -> Log:
        """Create a log, or return the one that its idempotency key began. Raises StoreError."""
        log = await self._store.create(beginning)
        if log.beginning.id != beginning.id and unopened(self._live.stream(log).dialect, log):
            # It failed before its response opened: its key may be used again.
            await self._store.release_key(log)
            log = await self._store.create(beginning)
        return log

    async def _join(self, log: Log, beginning: Beginning) -> Stream:
        if log.beginning.idempotency != beginning.idempotency:
            words = "This Idempotency-Key was used with another body."
            raise Rejected(422, words, "idempotency_key_reused", "Idempotency-Key")
        return await self._finding.current(log)

    async def _begin_without_client(
        self,
        creating: asyncio.Task[Log],
        stream_id: str,
        generation: Generation,
        route: Sequence[Target],
        holds: ExitStack,
    ) -> None:
        """Begin a stream whose client left while its log was created. Its policy says what becomes of it.

        `holds` is what the request held; others wait for this stream until it is released.
        """
        with holds, suppress(StoreError):  # no log was created
            log = await creating
            if log.beginning.id == stream_id:
                self._linger.left(self._live.begin(self._live.stream(log), generation, route), "gone")
