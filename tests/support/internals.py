"""Every reach of a test into a private part of the gateway or of a library.

A test that needs what is not public gets it from a function here. So a private name is used in one file, and a change
of it breaks one line. Each function says what it gives, and why a test needs it.
"""

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from redis.commands.core import AsyncScript

from server.aio.deadline import Deadline
from server.aio.timers import Due, TimerWheel
from server.api.connection import Connection
from server.api.delivery import Delivery
from server.app import Gateway
from server.config.settings import Model
from server.core.ports import Log, Store
from server.relay.stream import Stream
from server.stores.memory.segments import Segment, Segments
from server.stores.memory.store import MemoryLog
from server.stores.ownership import Ownership
from server.stores.redis.catalog import Catalog as RedisCatalog
from server.stores.redis.lease import Lease as RedisLease
from server.stores.redis.log import RedisLog
from server.stores.redis.server import Server
from server.stores.redis.store import RedisStore
from server.stores.sqlite.catalog import Catalog as SqliteCatalog
from server.stores.sqlite.database import Database
from server.stores.sqlite.lease import Lease as SqliteLease
from server.stores.sqlite.store import SqliteStore
from server.streams.admission import Starting
from server.streams.live import LiveStreams
from server.streams.takeover import Takeover
from server.telemetry.stats import Slot, Stats
from server.upstreams.client import UpstreamClient
from server.upstreams.connecting import UpstreamConnector
from server.upstreams.pool import Upstreams
from server.upstreams.sdk import QuickOpenAI, Sdk

ReadToEnd = Callable[[aiohttp.ClientResponse], Awaitable[None]]

# --- asyncio and aiohttp ------------------------------------------------------------------------------------------


def close_stdout(process: Process) -> None:
    """Close our end of the pipe that a process writes to, as `head` does: asyncio has no other way."""
    pipe = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]  # typeshed does not know it
    pipe.close()


def queues(handler: web.RequestHandler, protocol: ResponseHandler, body: aiohttp.StreamReader) -> list[object]:
    """Give the queues of a server's connection, a client's connection and a body: their types are under test."""
    return [handler._messages, protocol._buffer, body._buffer, body._http_chunk_splits]


def new_protocol(connector: UpstreamConnector) -> ResponseHandler:
    """Give the protocol that a connector makes for a new connection: a test drives it without a socket."""
    protocol: ResponseHandler = connector._factory()
    return protocol


def mark_paused(protocol: ResponseHandler) -> None:
    """Let a protocol that has no socket believe that it paused reading."""
    protocol._reading_paused = True


# --- aio ----------------------------------------------------------------------------------------------------------


def timer_slots(wheel: TimerWheel) -> Collection[set[Due]]:
    """Give the places of a timer wheel that are taken: a timer that was dropped must leave none."""
    return wheel._slots.values()


def is_ticking(wheel: TimerWheel) -> bool:
    """Whether a timer wheel turns: a test waits until it stands still."""
    return wheel._ticking


def set_wheel(deadline: Deadline, wheel: TimerWheel) -> None:
    """Give a deadline another wheel, which counts how often the deadline asks it."""
    deadline._wheel = wheel


# --- the gateway and its API --------------------------------------------------------------------------------------


def requests_received(connection: Connection) -> int:
    """Give how many heads aiohttp's parser has found: the gateway finds the first one by itself."""
    return connection._request_count


def waits_for_head(connection: Connection) -> bool:
    """Whether the clock of a connection's first request runs."""
    return connection._head_timer is not None


def application(gateway: Gateway) -> web.Application:
    """Give the aiohttp application: a test compares its routes with those that may exist."""
    assert gateway._runner.app is not None
    return gateway._runner.app


def connections(gateway: Gateway) -> list[web.RequestHandler]:
    """Give the connections that the gateway has accepted: a test waits for its own."""
    assert gateway._runner.server is not None
    return gateway._runner.server.connections


def is_accepting(gateway: Gateway) -> bool:
    """Whether any listener is open: a test waits for the moment in which a gateway that stops closes them."""
    return any(server.is_serving() for server in gateway._servers)


def is_blocked(delivery: Delivery) -> bool:
    """Whether the client of a response takes no more bytes: a test waits until all buffers are full."""
    return delivery._protocol.writing_paused


def stats_slots(stats: Stats) -> Collection[Slot]:
    """Give the slots of the statistics: their number is bounded."""
    return stats._slots


# --- streams and their relays -------------------------------------------------------------------------------------


def live_streams(gateway: Gateway) -> LiveStreams:
    """Give the streams that this process relays: a test looks at their tasks and relays."""
    return gateway.streams._live


def streams_in_use(gateway: Gateway) -> Collection[str]:
    """Give the ids of the logs that may still grow and have a `Stream` here: none may stay when nobody uses it."""
    return gateway.streams._live._streams


def starting_streams(gateway: Gateway) -> Starting:
    """Give the streams that are about to begin: a test waits for one, and none may stay."""
    return gateway.streams._starting


def creation_tasks(gateway: Gateway) -> Collection[asyncio.Task[Any]]:
    """Give the tasks that create logs: none may stay."""
    return gateway.streams._creation._tasks


def linger_questions(gateway: Gateway) -> Collection[asyncio.Task[None]]:
    """Give the tasks that ask the store whether others read a stream: none may stay."""
    return gateway.streams._linger._questions


def takeover(gateway: Gateway) -> Takeover:
    """Give what takes streams over: a test lets it do so at a chosen moment, not when a lease lapses."""
    return gateway.streams._takeover


def start_draining(gateway: Gateway) -> None:
    """Let the gateway take no new streams, as after the notice of a shutdown."""
    gateway.streams.stopping = True
    gateway.streams._draining.set()


def stop_draining(gateway: Gateway) -> None:
    """Let the gateway create streams again after it was drained: a test drains it more than once."""
    gateway.streams.stopping = False
    gateway.streams._draining.clear()


def set_linger(gateway: Gateway, seconds: float) -> None:
    """Change how long a stream without readers goes on, while one is under way."""
    gateway.streams._linger._seconds = seconds


def append_under_way(stream: Stream) -> object | None:
    """Give the append of a stream that is not durable yet, or None: a test waits until there is none."""
    return stream._pending


# --- upstreams ----------------------------------------------------------------------------------------------------


def upstream_client(upstreams: Upstreams, name: str) -> UpstreamClient:
    """Give the client of an upstream: a reload keeps it, or replaces it."""
    return upstreams._clients[name]


def retired_clients(upstreams: Upstreams) -> Collection[UpstreamClient]:
    """Give the clients that a reload has replaced and that are not closed yet: none may stay."""
    return upstreams._retired


def is_quick(sdk: Sdk) -> bool:
    """Whether the SDK is used by its private part: a test takes both ways."""
    return isinstance(sdk._client, QuickOpenAI)


def is_closed(client: UpstreamClient) -> bool:
    """Whether a client of an upstream has no session, and so no connections."""
    return client._transport._session is None


def first_model(upstreams: Upstreams) -> Model:
    """Give the first configured model: a test asks for its route."""
    return upstreams._settings.models[0]


def circuits(upstreams: Upstreams, target: str) -> Collection[str]:
    """Give the models that have a circuit behind a target with a wildcard: their number is bounded."""
    return upstreams._circuits[target]


# --- stores -------------------------------------------------------------------------------------------------------


def database(store: Store) -> Database:
    """Give the database of a SQLite store: a test makes it read-only, or full, or looks into its tables."""
    assert isinstance(store, SqliteStore)
    return store._db


def catalog(store: Store) -> SqliteCatalog | RedisCatalog:
    """Give the catalog of a durable store: a test lets its next look fail."""
    assert isinstance(store, SqliteStore | RedisStore)
    return store._catalog


def redis_server(store: Store) -> Server:
    """Give the connection of a Redis store to its server: a test changes what the server holds."""
    assert isinstance(store, RedisStore)
    return store._server


def scripts(store: Store) -> dict[str, AsyncScript]:
    """Give the Lua scripts of a Redis store by name: a test loads them beforehand, and names one by its digest."""
    return redis_server(store)._scripts


def lease(store: Store) -> SqliteLease | RedisLease:
    """Give the lease of a durable store: a test compares its name with the holder of a log, or gives it back."""
    assert isinstance(store, SqliteStore | RedisStore)
    return store._lease


def ownership(store: Store) -> Ownership[RedisLog]:
    """Give what a Redis store knows of the owners of its logs: a test tells it that a claim went unheard."""
    assert isinstance(store, RedisStore)
    return store._ownership


def unpacked_records(log: Log) -> Collection[object]:
    """Give the records of a log in memory that are not packed yet: their number is bounded."""
    assert isinstance(log, MemoryLog)
    return log._unpacked


def segments(packed: Segments) -> Collection[Segment]:
    """Give the packed blocks of a log in memory: a test looks at what they have in common."""
    return packed._all
