"""From a request to a stream: admitted, changed by the operator's functions, given a log, and begun or joined."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import orjson

from server.aio.event import Event
from server.aio.pacing import StartPacer
from server.config.settings import Model
from server.core.dialect import unopened
from server.core.errors import Rejected
from server.core.generation import Generation
from server.core.ports import Log, Store
from server.core.records import Beginning
from server.relay.stream import Stream
from server.streams.admission import Admission, Owner, shutting_down
from server.streams.linger import Linger
from server.streams.live import LiveStreams
from server.streams.preprocess import Preprocessing
from server.upstreams.pool import Target, Upstreams

ID_BYTES = 18  # 144 random bits


def _written(generation: Generation) -> bytes:
    """Return a request's body. Raises Rejected 400 for one that cannot be written again."""
    try:
        written = orjson.dumps(generation.body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # orjson reads 1024 levels, but writes 254
        raise Rejected(400, "The body is nested too deeply.", "invalid_json") from error
    # The copy is as long as the text; orjson's own buffer behind a short one keeps its first 4 KB.
    return bytes(memoryview(written))


def _beginning(generation: Generation, owner: Owner, key: str | None) -> Beginning:
    """Return the facts that a stream starts with. Raises Rejected 400."""
    body = _written(generation)
    return Beginning(
        id=f"strm_{secrets.token_urlsafe(ID_BYTES)}",
        owner=owner.name,
        dialect=generation.dialect,
        model=generation.model,
        created=time.time(),
        body=body,
        stream=generation.stream,
        policy=generation.policy,
        idempotency=(key, hashlib.sha256(body).hexdigest()) if key else None,
        request_id=generation.request_id,
    )


class Creation:
    """Begins streams. `resolve` finds a configured model, `join` the stream of a log that was there already."""

    def __init__(
        self,
        store: Store,
        upstreams: Upstreams,
        preprocessing: Preprocessing,
        start_pacer: StartPacer,
        admission: Admission,
        live: LiveStreams,
        linger: Linger,
        draining: Event,
        resolve: Callable[[str], Model | None],
        join: Callable[[Log], Awaitable[Stream]],
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._preprocessing = preprocessing
        self._start_pacer = start_pacer
        self._admission = admission
        self._live = live
        self._linger = linger
        self._draining = draining
        self._resolve = resolve
        self._join = join

    async def create(self, generation: Generation, owner: Owner, key: str | None) -> Stream:
        """Begin a stream, or join the one that this idempotency key began.

        Raises:
            Rejected: draining, over a limit, unknown model, key used with another body.
            StoreError: the store is away.

        """
        model = self._resolve(generation.model)
        if model is None:
            raise Rejected(404, f"The model `{generation.model}` does not exist.", "model_not_found", "model")
        beginning = _beginning(generation, owner, key)
        if key is not None:
            await self._admission.settled(owner, key)
            live = self._live.with_key(owner.name, key)
            if live is not None:
                return await self._joined(live.stream.log, beginning)  # no further generation: no limit holds it back
        self._admission.admit(owner)
        route = self._upstreams.route(model, generation.model)
        with self._admission.starting(owner, key or beginning.id):
            self._upstreams.hold(route)
            try:
                if self._preprocessing or self._store.durable:
                    self._upstreams.connect_ahead(route)  # beside all that is done until the request can be sent
                if self._preprocessing:
                    generation = await self._preprocessing.run(generation)
                    beginning = replace(
                        beginning, body=_written(generation)
                    )  # the digest stays that of the client's own words
                    if self._draining.is_set():
                        raise shutting_down()
                return await self._created(beginning, generation, route)
            finally:
                self._upstreams.release(route)

    async def _created(self, beginning: Beginning, generation: Generation, route: Sequence[Target]) -> Stream:
        # Shielded: a client that leaves now must not leave a log behind that nobody ever ends.
        creating = asyncio.ensure_future(self._log(beginning))
        try:
            found = await asyncio.shield(creating)
            if self._store.durable:
                await self._start_pacer.take()  # a batch of logs is made at once
        except asyncio.CancelledError:
            creating.add_done_callback(lambda done: self._abandoned(done, beginning, generation, route))
            raise
        if found.beginning.id == beginning.id:
            return self._live.begin(self._live.stream(found), generation, route).stream
        return await self._joined(found, beginning)

    async def _log(self, beginning: Beginning) -> Log:
        """Make a log, or return the one that its idempotency key began. Raises StoreError."""
        self._live.expect(beginning.id)  # whoever finds the log from now on must not begin a relay of its own
        made = False
        try:
            found = await self._store.create(beginning)
            if found.beginning.id != beginning.id and unopened(self._live.stream(found).dialect, found):
                # It failed before its response opened: its key may be used again.
                await self._store.release_key(found)
                found = await self._store.create(beginning)
            made = found.beginning.id == beginning.id
            return found
        finally:
            if not made:
                self._live.unexpect(beginning.id)

    async def _joined(self, found: Log, beginning: Beginning) -> Stream:
        if found.beginning.idempotency != beginning.idempotency:
            words = "This Idempotency-Key was used with another body."
            raise Rejected(422, words, "idempotency_key_reused", "Idempotency-Key")
        return await self._join(found)

    def _abandoned(
        self, done: asyncio.Future[Log], beginning: Beginning, generation: Generation, route: Sequence[Target]
    ) -> None:
        """Begin a stream whose client left while its log was made: the policy says what becomes of it."""
        if not done.cancelled() and done.exception() is None and done.result().beginning.id == beginning.id:
            self._linger.left(self._live.begin(self._live.stream(done.result()), generation, route), "gone")
