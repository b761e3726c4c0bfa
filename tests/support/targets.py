"""A gateway in this process whose models have several targets: one provider is the upstreams `one`, `two`, `three`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway import InProcess, in_process
from provider import Provider
from wire import until

NAMES = ("one", "two", "three")
TEXT20 = "".join(f"tok{i} " for i in range(20))
TEXT60 = "".join(f"tok{i} " for i in range(60))


@asynccontextmanager
async def gateway_with_targets(
    provider: Provider, model: str, *, targets: int = 2, one: Any = None, two: Any = None, **tables: Any
) -> AsyncIterator[InProcess]:
    """Run a gateway whose `model` goes to `one/{model}-1`, then `two/{model}-2`, …

    `one` and `two` are further settings of these upstreams, `tables` further tables of the configuration.
    """
    extra = {"one": one or {}, "two": two or {}}
    recovery = {"strategy": "auto", "backoff": 0.01, **tables.pop("recovery", {})}
    upstreams = [{"name": name, "base_url": provider.url, **extra.get(name, {})} for name in NAMES[:targets]]
    route = [f"{name}/{model}-{number}" for number, name in enumerate(NAMES[:targets], 1)]
    models = [{"name": model, "targets": route}]
    async with in_process(provider.url, recovery=recovery, upstreams=upstreams, models=models, **tables) as gateway:
        yield gateway


async def requests_per_target(provider: Provider, model: str, targets: int = 2) -> list[int]:
    """Return how many requests each target has seen."""
    return [len(await provider.seen(f"{model}-{number}")) for number in range(1, targets + 1)]


async def until_counted(gateway: InProcess, metric: str, **labels: str) -> None:
    """Wait until a metric is 1: an attempt is counted after its client has got the ending."""

    async def counted() -> bool:
        return gateway.app.metrics.registry.get_sample_value(metric, labels) == 1

    await until(counted)
