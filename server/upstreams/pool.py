"""All configured upstreams, and the circuits of their targets."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from server.config.settings import Model, Settings, Upstream
from server.config.settings import Target as ConfiguredTarget
from server.core.timing import Phases
from server.core.upstream_api import CHAT, ChatApi, UpstreamApi
from server.upstreams.breaker import Breaker, CircuitState
from server.upstreams.client import UpstreamClient, identity
from server.upstreams.model_list import ListedModel

MAX_CIRCUITS = 1000  # per "upstream/*", one for each model behind it
CHAT_ALONE: Mapping[str, UpstreamApi] = {CHAT: ChatApi()}
WARM_INTERVAL = 10.0  # seconds between two checks of idle connections; aiohttp drops one after 30
WARM_FOR = 300.0  # seconds after an upstream's last request in which it keeps an idle connection


@dataclass(frozen=True, slots=True)
class Target:
    """One place that a request can go to: an upstream, the model's name there, and the circuit of the two.

    `name` is "upstream/model". `label` is the target as configured: "upstream/*" stays "upstream/*", because clients
    must not be able to add labels to our metrics. `served` is the `[[models]]` entry that the target belongs to.
    """

    name: str
    label: str
    model: str
    client: UpstreamClient
    breaker: Breaker
    served: Model

    @property
    def api(self) -> UpstreamApi:
        """What the upstream speaks."""
        return self.client.api

    @property
    def settings(self) -> Upstream:
        """The upstream's capabilities."""
        return self.client.settings

    @property
    def ttft_timeout(self) -> float:
        """Seconds of one attempt, from the sent request to the first token."""
        return self.served.ttft_timeout or self.settings.ttft_timeout

    @property
    def idle_timeout(self) -> float:
        """Seconds between two tokens."""
        return self.served.idle_timeout or self.settings.idle_timeout

    @property
    def last_resort_timeout(self) -> float:
        """Seconds of both limits while no other target is left to ask."""
        return self.served.last_resort_timeout or self.settings.last_resort_timeout


class Upstreams:
    """The clients of the upstreams and the circuits of the targets, for the configuration in force.

    `apis` are those that upstreams may speak, by name.

    Each upstream in use has a connection before it is needed. When one was opened so, `connected` is called with the
    upstream's name and the connection's phases.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        connected: Callable[[str, Phases], None] = lambda _upstream, _phases: None,
        apis: Mapping[str, UpstreamApi] = CHAT_ALONE,
    ) -> None:
        self._connected = connected
        self._apis = apis
        self._warming: asyncio.Task[None] | None = None
        self._settings = settings
        self._environ = environ
        self._clients: dict[str, UpstreamClient] = {}
        self._retired: set[UpstreamClient] = set()  # replaced; each is closed after the last stream that may use it
        self._closing: set[asyncio.Task[None]] = set()
        self._circuits: dict[str, OrderedDict[str, Breaker]] = {}  # by target as configured, then by model

    async def open(self) -> None:
        """Create the clients. Call it in the running loop. Raises OSError if a certificate cannot be read."""
        self._clients = {upstream.name: self._client(upstream, self._environ) for upstream in self._settings.upstreams}
        for client in self._clients.values():
            await client.warm_up()
        self._warming = asyncio.create_task(self._keep_warm(), name="keep warm")

    def _client(self, upstream: Upstream, environ: Mapping[str, str]) -> UpstreamClient:
        return UpstreamClient(upstream, environ, self._apis[upstream.api])

    async def _keep_warm(self) -> None:
        """Keep an idle connection to every upstream in use. At the start all upstreams count as in use."""
        while True:
            since = time.monotonic() - WARM_FOR
            used = [client for client in self._clients.values() if client.asked >= since]
            for client, phases in zip(used, await asyncio.gather(*(client.connect() for client in used)), strict=True):
                if phases is not None:
                    self._connected(client.settings.name, phases)
            await asyncio.sleep(WARM_INTERVAL)

    async def close(self) -> None:
        """Close every connection."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        for client in (*self._clients.values(), *self._retired):
            await client.close()
        await asyncio.gather(*self._closing)

    async def reload(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Take new upstreams. Upstreams that have not changed keep their connections and circuits.

        Raises:
            OSError: a certificate cannot be read. Then nothing has changed.

        """
        clients = {}
        for upstream in settings.upstreams:
            old = self._clients.get(upstream.name)
            same = old is not None and old.identity == identity(upstream, environ)
            clients[upstream.name] = old if old is not None and same else self._client(upstream, environ)
        for client in clients.values():
            await client.warm_up()
        replaced = set(self._clients.values()) - set(clients.values())
        replaced_names = {client.settings.name for client in replaced}
        self._settings, self._environ, self._clients = settings, environ, clients
        targets = {str(target) for model in settings.models for target in model.targets}
        self._circuits = {
            label: circuits
            for label, circuits in self._circuits.items()
            if label in targets and label.partition("/")[0] not in replaced_names
        }
        self._retired |= replaced
        self._close_retired()

    def connect_ahead(self, route: Sequence[Target]) -> None:
        """Begin to connect to the target that will be asked first."""
        for target in route:
            if target.breaker.available:
                target.client.connect_ahead()
                return

    def hold(self, route: Sequence[Target]) -> None:
        """Keep the clients of a stream's targets open until `release`."""
        now = time.monotonic()
        for target in route:
            target.client.streams += 1
            target.client.asked = now

    def release(self, route: Sequence[Target]) -> None:
        """Undo `hold`: the stream has ended."""
        for target in route:
            target.client.streams -= 1
        if self._retired:
            self._close_retired()

    def _close_retired(self) -> None:
        for client in [client for client in self._retired if client.streams == 0]:
            self._retired.discard(client)
            task = asyncio.create_task(client.close(), name=f"close {client.settings.name}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def route(self, model: Model, model_name: str) -> list[Target]:
        """Return the targets of `model`, in the order of the configuration.

        `model_name` is the name that the client sent: "upstream/*" keeps it.
        """
        targets = []
        for target in model.targets:
            upstream_model = target.model or model_name
            name = f"{target.upstream}/{upstream_model}"
            breaker = self._breaker(str(target), name)
            client = self._clients[target.upstream]
            targets.append(Target(name, str(target), upstream_model, client, breaker, served=model))
        return targets

    async def models_of(self, target: ConfiguredTarget) -> Sequence[ListedModel]:
        """Return the models that a target stands for: "upstream/*" for those that the upstream lists."""
        if target.model is not None:
            return [ListedModel(target.model, 0, target.upstream)]
        if (client := self._clients.get(target.upstream)) is None:
            return ()  # a reload has just taken it away
        client.streams += 1  # as `hold` does
        try:
            return await client.models.current()
        finally:
            client.streams -= 1
            self._close_retired()

    def _breaker(self, label: str, name: str) -> Breaker:
        """Return the circuit of one model. Behind "upstream/*" each has its own: a bad one must not block others."""
        circuits = self._circuits.setdefault(label, OrderedDict())
        breaker = circuits.get(name)
        if breaker is None:
            recovery = self._settings.recovery
            breaker = circuits[name] = Breaker(recovery.breaker_failures, recovery.breaker_reset, time.monotonic)
            if len(circuits) > MAX_CIRCUITS:
                circuits.popitem(last=False)  # clients choose these names, so drop the least recently used one
        circuits.move_to_end(name)
        return breaker

    @property
    def circuits(self) -> dict[str, CircuitState]:
        """The state of each configured target's circuit. For "upstream/*" it is the worst state of its models."""
        worst: list[CircuitState] = ["open", "half_open", "closed"]
        states = {label: {breaker.state for breaker in circuits.values()} for label, circuits in self._circuits.items()}
        return {label: next(state for state in worst if state in own) for label, own in states.items()}
