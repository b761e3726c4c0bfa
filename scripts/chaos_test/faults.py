"""What goes wrong meanwhile: in the provider's answers, and with the processes."""

import asyncio
import random
import signal
from collections import Counter
from typing import Any

from chaos_test.world import Part, World

TOKENS = (30, 90)  # of one stream
RATE = (15, 60)  # tokens a second


def answers(chance: random.Random, seed: str) -> tuple[list[dict[str, Any]], list[str], str]:
    """Return one stream's scripts, the provider's faults in them, and its whole text."""
    count = chance.randint(*TOKENS)
    pieces = [f"{seed}-{n}:{chance.randrange(36**4):x} " for n in range(count)]
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


async def break_processes(world: World, chance: random.Random, done: Counter[str], pause: tuple[float, float]) -> None:
    """Break one thing after another until cancelled; whatever is broken has come back when this returns."""
    kinds = ["gateway SIGKILL", "gateway SIGKILL", "gateway SIGTERM", "gateway SIGTERM", "nginx reload"]
    if world.store == "redis":
        kinds += ["redis SIGKILL", "redis SIGTERM"]
    while True:
        await asyncio.sleep(chance.uniform(*pause))
        kind = chance.choice(kinds)
        gateway = chance.choice(world.gateways)
        breaking = asyncio.ensure_future(_break(kind, world, gateway, chance.uniform(0.0, 1.0)))
        try:
            await asyncio.shield(breaking)
        finally:
            await breaking
        done[kind] += 1


async def _break(kind: str, world: World, gateway: Part, away: float) -> None:
    if kind == "nginx reload":
        world.nginx.signal(signal.SIGHUP)
        return
    part = gateway if kind.startswith("gateway") else world.redis
    number = signal.SIGKILL if kind.endswith("SIGKILL") else signal.SIGTERM
    status = await part.stop(number)
    if part is gateway and number is signal.SIGTERM and status != 0:
        raise RuntimeError(f"{gateway.name} ended with {status} on SIGTERM")
    await asyncio.sleep(away)
    await part.start()
