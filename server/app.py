"""The composition root: makes a running gateway of the settings."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Mapping, Sequence

import structlog
from aiohttp import web

from server.aio.private_part import warn_of_changes
from server.api.access import Access
from server.api.connection import Connection, add_headers, connection_options
from server.api.console import Console
from server.api.cors import Cors
from server.api.dialect import ServedDialect
from server.api.errors import middleware
from server.api.listener import BACKLOG, bound, close, exposed, listen
from server.api.models import Models
from server.api.operations import Operations
from server.api.plain.routes import PlainPaths
from server.api.requests import BODIES
from server.api.respond import Responder
from server.api.streams import StreamPaths
from server.config.plugins import DIALECTS, RECOVERY, STORES, TOOLS, installed, load_plugin, load_plugins
from server.config.settings import Settings
from server.core.dialect import Dialects
from server.core.openai.request import check_fields
from server.core.ports import Store, Strategy
from server.reload import Load, Reload
from server.streams.live import RelayParts
from server.streams.preprocess import Preprocessing
from server.streams.streams import Streams
from server.systemd import notify, watchdog_interval
from server.telemetry.logs import unhandled
from server.telemetry.metrics import Metrics
from server.telemetry.traces import traces
from server.tools.toolbox import Toolbox
from server.upstreams.pool import Upstreams

STOP_MARGIN = 15.0  # seconds for closing readers, tools and stores after the grace
ACCEPTED_GRACE = 2.0  # seconds for the first request of a connection that was accepted last: it comes soon or never
PATTERN = re.compile(r"\{(\w+):.*?\}(?=/|,|$)")  # a part of a path that takes any text of some form
READERS_GRACE = 2.0  # seconds for readers to fetch the endings that a shutdown wrote
log = structlog.get_logger("sluiceway")


class Gateway:
    """A whole gateway. Call `start` and later `stop`, or `serve`, which runs until a signal. Raises PreprocessError."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        with_secrets = settings.model_copy(update={"store": settings.store.resolved(environ)})  # for the store alone
        self.store: Store = load_plugin(STORES, settings.store.kind)(with_secrets)
        strategy: Strategy = load_plugin(RECOVERY, settings.recovery.strategy)()
        self._strategy = strategy
        self._served_dialects: dict[str, ServedDialect] = {
            name: dialect() for name, dialect in load_plugins(DIALECTS).items()
        }
        self._dialects = Dialects(self._served_dialects)
        self.upstreams = Upstreams(settings, environ, self.metrics.observe_connecting, self._dialects.upstream_apis)
        self.toolbox = Toolbox(settings, installed(TOOLS), environ, self.metrics.tools_given_up.inc)
        self.metrics.tools_hanging.set_function(lambda: self.toolbox.bounds.hanging)
        self.preprocessing = Preprocessing(settings.preprocess, check_fields)
        self._traces = traces(os.environ)
        self._access = Access(settings)
        self._runner: web.AppRunner
        self._servers: list[asyncio.Server] = []
        self._own_sockets = False  # nobody else listens on them
        self.streams: Streams
        self.responder: Responder
        self.plain: PlainPaths

    async def start(self, passed: Sequence[socket.socket] = ()) -> None:
        """Open the tools, the store, the upstreams and the listener. `passed` sockets are used instead of a listener.

        Raises:
            StoreError, ToolSetupError: with one sentence for the operator.
            OSError: the port is taken, or others could reach a passed socket although there are no keys.

        """
        warn_of_changes()
        self._check_exposure(passed, self.settings)
        await self.toolbox.open()
        await self.store.open()
        await self.upstreams.open()
        parts = RelayParts(self._strategy, self.toolbox, self._dialects, self.metrics, self._traces)
        self.streams = Streams(self.settings, self.store, self.upstreams, self.preprocessing, parts)
        await self.streams.open()
        self.responder = Responder(self.streams, self.settings.flow, self.metrics)
        self.plain = PlainPaths(self.streams, self._strategy, self.settings.flow, self.metrics)
        self._runner = web.AppRunner(self._application(), handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        for sock in passed:
            bound(sock, self.settings.flow)
        self._own_sockets = not passed
        loop = asyncio.get_running_loop()
        for sock in passed or listen(self.settings.server.host, self.settings.server.port, self.settings.flow):
            self._servers.append(await loop.create_server(self._connection, sock=sock, backlog=BACKLOG))

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None
        return Connection(server, loop=asyncio.get_running_loop(), **connection_options())

    def _check_exposure(self, sockets: Sequence[socket.socket], settings: Settings) -> None:
        """Raise OSError if other machines could use the gateway without a key."""
        if not settings.keys and (address := exposed(sockets)):
            raise OSError(f"listening on {address} takes [[keys]] for all who can reach it")

    async def reload(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Take the keys, models and upstreams of `settings`. Live streams keep those with which they began.

        Raises:
            ConfigError, OSError: the new settings cannot be used. Then nothing has changed.

        """
        self._check_exposure([sock for server in self._servers for sock in server.sockets], settings)
        await self.upstreams.reload(settings, environ)
        # From here on nothing fails and nothing waits. So no request sees half of the change.
        self._access.take(settings.keys)
        self.settings = self.streams.settings = settings

    def _application(self) -> web.Application:
        resources: list[Models | PlainPaths | StreamPaths | Operations | Console] = [
            Models(self.streams),
            self.plain,
            StreamPaths(self.streams, self.responder, self._dialects),
            Operations(self.streams, self.metrics),
            Console(),
        ]
        by_dialect = {
            dialect: dialect.routes(self.streams, self.responder) for dialect in self._served_dialects.values()
        }
        paths = {route.path: dialect for dialect, own_routes in by_dialect.items() for route in own_routes}
        routes = [route for own_routes in by_dialect.values() for route in own_routes]
        routes += [route for resource in resources for route in resource.routes()]
        served = PATTERN.sub(r"{\1}", ", ".join(f"{route.method} {route.path}" for route in routes))
        # aiohttp's limit of a body is for `request.read()`, which nothing calls. server/api/requests.py has our own.
        cors = Cors(self.settings.server.cors_origins)
        app = web.Application(middlewares=[middleware(self._access, cors, served, paths)])
        app[BODIES] = self.streams.bodies
        app.on_response_prepare.append(add_headers)
        app.on_response_prepare.append(self._keep_no_connection)
        if self.settings.server.cors_origins:
            app.on_response_prepare.append(cors.sign)
        app.add_routes(routes)
        return app

    async def _keep_no_connection(self, request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG002 — aiohttp's signal
        """Close each connection behind its response once the process is stopping.

        A connection that a proxy has kept until the process ends may get a POST in just that moment. The proxy could
        not know whether a generation has begun, and so could not send it again.
        """
        if self.streams.stopping:
            response.force_close()
            response.headers["Connection"] = "close"

    @property
    def port(self) -> int:
        """The port that the gateway listens on. If 0 was configured, the kernel has chosen it."""
        port: int = self._servers[0].sockets[0].getsockname()[1]
        return port

    async def stop(self, grace: float, notice: float = 0.0) -> None:
        """Drain for up to `grace` seconds with the listener open. Then end what is left and close everything.

        New streams are taken for the first `notice` of these seconds.
        """
        await self.streams.drain(grace, notice, self.responder.idle)
        await self.responder.leave(READERS_GRACE, durable=self.store.durable)
        await close(self._servers, self._connection if self._own_sockets else None)
        await self._first_requests()
        await self.streams.close()
        await self._runner.cleanup()
        self.plain.close()
        await self.upstreams.close()
        await self.store.close()
        await self.toolbox.close()
        if self._traces is not None:
            await self._traces.close()

    async def _first_requests(self) -> None:
        """Wait a moment for the first requests of connections that were accepted just before the listener was closed.

        If another process takes over the listening socket, it never sees these connections. Without the wait they would
        be the only requests that a hand-over loses.
        """
        server = self._runner.server
        assert server is not None
        try:
            async with asyncio.timeout(ACCEPTED_GRACE):
                while any(isinstance(one, Connection) and one.fresh for one in server.connections):  # noqa: ASYNC110 — see ACCEPTED_GRACE
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass  # such as a browser's spare connection, which never sends a request

    async def serve(self, load: Load | None = None, passed: Sequence[socket.socket] = ()) -> None:
        """Run until SIGTERM or SIGINT, and notify systemd. At SIGHUP, `load` reads the configuration again.

        SIGINT is a Ctrl-C: nobody balances load before a gateway in a terminal, so nothing new is taken from then on.
        """
        stopping: asyncio.Queue[float] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(unhandled)
        loop.add_signal_handler(signal.SIGTERM, stopping.put_nowait, self.settings.server.drain_notice)
        loop.add_signal_handler(signal.SIGINT, stopping.put_nowait, 0.0)
        await self.start(passed)
        grace = self.settings.server.shutdown_grace
        companions = [asyncio.create_task(_watchdog(), name="watchdog")]
        if load is not None:
            reload = Reload(self.settings, load, self.reload)
            companions.append(asyncio.create_task(reload.run(), name="reload"))
            loop.add_signal_handler(signal.SIGHUP, reload.ask)
        log.info("listening", host=self.settings.server.host, port=self.port, store=self.settings.store.kind)
        notify("READY=1\nSTATUS=Running.")
        notice = await stopping.get()
        log.info("draining", streams=self.streams.live, grace=grace, notice=notice)
        # Without this extension systemd would kill the process if the grace is longer than its own timeout.
        notify(f"STOPPING=1\nSTATUS=Draining.\nEXTEND_TIMEOUT_USEC={round((grace + STOP_MARGIN) * 1_000_000)}")
        await self.stop(grace, notice)
        for task in companions:
            task.cancel()
        log.info("stopped")


async def _watchdog() -> None:
    """Tell systemd that the event loop runs, as often as it asks for. It restarts a process whose loop hangs."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
