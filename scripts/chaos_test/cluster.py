"""The processes of the experiment: the scripted provider, Redis, two gateways, and nginx in front of them.

Each can be stopped and started again.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

from lab import places
from lab.processes import START, Child

LEASE = 2.0  # seconds
NGINX = """proxy_set_header Host localhost; proxy_read_timeout 60s; proxy_next_upstream error timeout http_503;"""


class Cluster:
    """All processes; `async with Cluster(store, folder)` starts and ends them."""

    def __init__(self, store: str, folder: Path) -> None:
        self.store = store
        self.provider = places.provider(folder)
        self.redis = places.redis(folder)
        self.gateways = [places.gateway(self._tables(folder), folder, f"gateway-{number}") for number in (1, 2)]
        servers = [f"127.0.0.1:{gateway.port} max_fails=1 fail_timeout=1s" for gateway in self.gateways]
        self.nginx = places.nginx(servers, NGINX, folder)

    def _tables(self, folder: Path) -> dict[str, Any]:
        url = f"redis://127.0.0.1:{self.redis.port}/0"
        return {
            "server": {"shutdown_grace": 0.5},
            "flow": {"drain_timeout": 2.0},
            "streams": {"on_disconnect": "continue", "total_timeout": 240.0},
            "store": {"kind": self.store, "path": str(folder / "streams.db"), "url": url, "lease": LEASE},
            "recovery": {"max_retries": 20, "max_recoveries": 20, "backoff": 0.05, "breaker_failures": 1_000_000},
            "upstreams": [
                {
                    "name": "provider",
                    "base_url": self.provider.root + "/v1",
                    "idle_timeout": 2.0,
                    "ttft_timeout": 5.0,
                    "last_resort_timeout": 2.0,
                }
            ],
            "models": [{"name": "*", "targets": ["provider/*"]}],
        }

    @property
    def processes(self) -> list[Child]:
        """The processes, in the order in which they start."""
        return [self.provider, *([self.redis] if self.store == "redis" else []), *self.gateways, self.nginx]

    async def __aenter__(self) -> "Cluster":
        try:
            for process in self.processes:
                await asyncio.to_thread(process.start)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            if process.started:
                number = signal.SIGKILL if process in self.gateways else signal.SIGTERM
                await asyncio.to_thread(process.stop, number, START)
