"""From a request to a stream: admitted, changed by the operator's functions, given a log, and begun or joined."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any, Self, TypeVar

import orjson

from server.aio.cancelling import cancel
from server.core.dialect import unopened
from server.core.errors import Rejected, StoreError
from server.core.generation import Generation, asks_usage, with_changes
from server.core.ports import Log, Store
from server.core.records import Beginning
from server.relay.stream import Stream
from server.streams.admission import Admission, Owner
from server.streams.finding import Finding
from server.streams.linger import Linger
from server.streams.live import LiveStreams
from server.streams.preprocess import Preprocessing
from server.streams.routes import Routes
from server.upstreams.pool import Target

ID_BYTES = 18  # 144 random bits
Result = TypeVar("Result")


def _digest(generation: Generation) -> str:
    """Return a digest of a request's body as parsed: neither spaces nor the order of fields make a difference."""
    body = orjson.dumps(orjson.loads(generation.logged.data), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(body).hexdigest()


def _beginning(generation: Generation, owner: Owner, key: str | None) -> Beginning:
    """Return the facts that a stream starts with."""
    return Beginning(
        id=f"strm_{secrets.token_urlsafe(ID_BYTES)}",
        owner=owner.name,
        dialect=generation.dialect,
        model=generation.model,
        created=time.time(),
        body=generation.logged.data,
        stream=generation.stream,
        policy=generation.policy,
        idempotency=(key, _digest(generation)) if key else None,
        request_id=generation.request_id,
        choices=generation.choices,
        asks_usage=asks_usage(generation.body),
    )


class Place:
    """What a request holds until its relay runs here, or it is clear that none will. A block gives it back at its end.

    That is its part of the limits, and the connections of its route, which a reload would close. Raises Rejected.
    """

    __slots__ = ("_admission", "_beginning", "_route", "_routes")

    def __init__(self, admission: Admission, routes: Routes, beginning: Beginning, owner: Owner) -> None:
        admission.admit(owner, beginning)
        self._admission = admission
        self._routes = routes
        self._beginning: Beginning | None = beginning  # None: another place has what this one had
        self._route: Sequence[Target] = ()

    def take_route(self, model: str) -> Sequence[Target]:
        """Return the targets of a model, whose connections are kept."""
        self._route = self._routes.of(model)
        self._routes.upstreams.hold(self._route)
        return self._route

    def handed_on(self) -> "Place":
        """Return a place that has what this one had. The end of this one's block gives nothing back any more."""
        place = copy(self)
        self._beginning = None
        return place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._beginning is not None:
            self._routes.upstreams.release(self._route)
            self._admission.release(self._beginning)


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

    async def create(self, generation: Generation, owner: Owner, key: str | None) -> Stream:
        """Begin a stream, or join the one that this idempotency key began.

        Raises:
            Rejected: draining, over a limit, unknown model, key used with another body.
            StoreError: the store is away.

        """
        self._routes.check(generation.model)
        beginning = _beginning(generation, owner, key)
        if key is not None:
            stream = await self._finding.with_key(owner.name, key)
            if stream is not None:
                return await self._join(stream.log, beginning)  # no further generation: no limit holds it back
            self._routes.check(generation.model)  # a reload may have taken it away meanwhile
        with Place(self._admission, self._routes, beginning, owner) as place:
            route = place.take_route(generation.model)
            if self._preprocessing or self._store.durable:
                self._routes.upstreams.connect_ahead(route)  # beside all that is done until the request can be sent
            if self._preprocessing:
                changed = await self._preprocessing.run(generation)
                if changed is not generation:
                    generation, further = changed, changed.source is not None
                    # The digest stays the client's own body's.
                    beginning = replace(beginning, body=with_changes(changed), changed=further)
                self._admission.check_open()
            log = await self._created(beginning, generation, route, place)
            if log.beginning.id == beginning.id:
                return self._live.begin(self._live.stream(log), generation, route).stream
            return await self._join(log, beginning)

    async def _created(
        self, beginning: Beginning, generation: Generation, route: Sequence[Target], place: "Place"
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
                self._start(self._begin_without_client(creating, beginning.id, generation, route, place.handed_on()))
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
        place: "Place",
    ) -> None:
        """Begin a stream whose client left while its log was created. Its policy says what becomes of it.

        `place` is what the request held; others wait for this stream until it is given back.
        """
        with place, suppress(StoreError):  # no log was created
            log = await creating
            if log.beginning.id == stream_id:
                self._linger.left(self._live.begin(self._live.stream(log), generation, route), "gone")
