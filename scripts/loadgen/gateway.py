"""The gateway under load: its configuration, and what is watched of it through /proc and /metrics."""

import urllib.request
from contextlib import suppress
from typing import Any

from lab.processes import Watched

from .plan import Plan


class Gateway(Watched):
    """A running gateway. Without its pid only its tasks are known."""

    def __init__(self, port: int, pid: int) -> None:
        super().__init__(pid)
        self.port = port

    def tasks(self) -> int:
        """Return the number of asyncio tasks from /metrics; 0 if unknown."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            for line in answer:
                if line.startswith(b"sluiceway_tasks "):
                    return int(float(line.split()[1]))
        return 0


def tables(plan: Plan, upstream_port: int) -> dict[str, Any]:
    """Return the gateway's configuration, with only what a run needs. Every other setting has its default."""
    return {
        "server": {"max_streams": 20_000, "drain_notice": 0.0},
        "flow": {"drain_timeout": plan.drain_timeout},
        "streams": {"retention": plan.retention, "total_timeout": 3600.0},
        "upstreams": [{"name": "load", "base_url": f"http://127.0.0.1:{upstream_port}/v1"}],
        "models": [{"name": "*", "targets": ["load/*"]}],
        "recovery": {
            "strategy": "restart",
            "max_retries": 3,
            "backoff": 0.1,
            # Faults are made on purpose, beside other streams. An attack must not open a circuit even so.
            "breaker_failures": 5 if plan.attacks else 1_000_000,
        },
    }
