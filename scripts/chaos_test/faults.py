"""The faults: in the answers of the provider, and in the processes."""

import asyncio
import random
import signal
from collections import Counter
from typing import Any

from lab.processes import START, Child

from chaos_test.cluster import Cluster

TOKENS = (30, 90)  # the least and the most tokens of one stream
RATE = (15, 60)  # tokens per second


def answers(chance: random.Random, model: str) -> tuple[list[dict[str, Any]], list[str], str]:
    """Return the scripts of one stream, the names of the faults in them, and its whole text."""
    count = chance.randint(*TOKENS)
    pieces = [f"{model}-{n}:{chance.randrange(36**4):x} " for n in range(count)]
    good = {"pieces": pieces, "rate": chance.randint(*RATE)}
    calls, names = [], []
    for _ in range(chance.choice((1, 1, 1, 2))):
        at = chance.randrange(1, count)
        name, fault = chance.choice(
            (
                ("reset", {"reset_after": at}),
                ("cut", {"cut_after": at}),
                ("stalled", {"stall_after": at}),
                ("ended early", {"eof_after": at}),
                ("in-band error", {"error_at": at, "error": {"message": "overloaded", "type": "server_error"}}),
                ("garbage", {"garbage_at": at}),
                ("status 500", {"status": 500, "error": {"message": "failed", "type": "server_error"}}),
                ("reset before its head", {"reset_before_head": True}),
            )
        )
        calls.append({**good, **fault})
        names.append(f"provider {name}")
    return [*calls, good], names, "".join(pieces)


async def break_processes(
    cluster: Cluster, chance: random.Random, broken: Counter[str], pause: tuple[float, float]
) -> None:
    """Break one process after another until cancelled; `broken` counts them. All of them run again when this returns.

    `pause` gives the least and the most seconds between two. Raises RuntimeError if a process ends badly.
    """
    kinds = ["gateway SIGKILL", "gateway SIGKILL", "gateway SIGTERM", "gateway SIGTERM", "nginx reload"]
    if cluster.store == "redis":
        kinds += ["redis SIGKILL", "redis SIGTERM"]
    while True:
        await asyncio.sleep(chance.uniform(*pause))
        kind = chance.choice(kinds)
        gateway = chance.choice(cluster.gateways)
        breaking = asyncio.ensure_future(_break(kind, cluster, gateway, chance.uniform(0.0, 1.0)))
        try:
            await asyncio.shield(breaking)
        finally:
            await breaking
        broken[kind] += 1


async def _break(kind: str, cluster: Cluster, gateway: Child, seconds: float) -> None:
    """Reload nginx, or stop a process and start it again after some seconds."""
    if kind == "nginx reload":
        cluster.nginx.signal(signal.SIGHUP)
        return
    process = gateway if kind.startswith("gateway") else cluster.redis
    number = signal.SIGKILL if kind.endswith("SIGKILL") else signal.SIGTERM
    status = await asyncio.to_thread(process.stop, number, START)
    if process is gateway and number is signal.SIGTERM and status != 0:
        raise RuntimeError(f"{gateway.name} ended with {status} on SIGTERM")
    await asyncio.sleep(seconds)
    await asyncio.to_thread(process.start)
