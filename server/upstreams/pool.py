"""All upstreams of the configuration, and the circuits of their targets."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from server.config import Model, Settings, Upstream
from server.upstreams.breaker import Breaker
from server.upstreams.client import UpstreamClient
from server.upstreams.transport import new_session


@dataclass(frozen=True, slots=True)
class Target:
    """One place that a request can go to: an upstream, the model's name there, and the circuit they share.

    `label` is the target as configured ("upstream/*" stays so): clients must not be able to grow our metrics.
    """

    name: str
    label: str
    model: str
    client: UpstreamClient
    breaker: Breaker

    @property
    def settings(self) -> Upstream:
        """The upstream's timeouts and capabilities."""
        return self.client.settings


class Upstreams:
    """Clients by upstream and circuits by target, for one configuration."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._session: aiohttp.ClientSession | None = None
        self._clients: dict[str, UpstreamClient] = {}
        self.breakers: dict[str, Breaker] = {}

    async def open(self) -> None:
        """Make the session and the clients; call in the running loop."""
        self._session = new_session()
        for upstream in self._settings.upstreams:
            self._clients[upstream.name] = UpstreamClient(upstream, self._session, self._environ)
        for client in self._clients.values():
            await client.warm_up()

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()
        if self._session is not None:
            await self._session.close()

    def route(self, model: Model, asked: str) -> list[Target]:
        """Return the targets for `model`, in the order of the configuration; `upstream/*` keeps the name `asked`."""
        targets = []
        for target in model.targets:
            name = f"{target.upstream}/{target.model or asked}"
            label = str(target)
            breaker = self.breakers.get(label)
            if breaker is None:
                recovery = self._settings.recovery
                breaker = self.breakers[label] = Breaker(
                    recovery.breaker_failures, recovery.breaker_reset, time.monotonic
                )
            targets.append(Target(name, label, target.model or asked, self._clients[target.upstream], breaker))
        return targets
