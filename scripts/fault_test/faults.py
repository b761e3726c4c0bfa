"""The sixteen faults: what each provider is told to do, and what caller and provider must have seen.

Each fault has a model of its own at both providers, so that all can run at once and no circuit is shared.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .caller import Got, ask
from .parts import Provider

TOKENS = 60
TEXT = "".join(f"tok{i} " for i in range(TOKENS))
SAY: dict[str, Any] = {"tokens": TOKENS}
LONG_PROMPT = {"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"}
UNSAFE = {"message": "The response was filtered.", "code": "content_filter"}
LATE_FILTER = "filter-late"  # the second model of that fault
MAX_ATTEMPTS = 3  # at one target: 1 + max_retries

CONFIG = """
[streams]
total_timeout = 100.0
[recovery]
breaker_reset = {reset}
[[upstreams]]
name = "primary"
base_url = "{primary}/v1"
ttft_timeout = {ttft}
idle_timeout = {idle}
[[upstreams]]
name = "fallback"
base_url = "{fallback}/v1"
[[upstreams]]
name = "prefill"
base_url = "{fallback}/v1"
continuation = "assistant"
"""


# A target for each fault: with "primary/*" all of them would share one circuit.
MODEL = """[[models]]
name = "{model}"
targets = ["primary/{model}", "{second}/{model}"]
"""


class Missed(Exception):
    """The gateway did not do what the fault asks for; the text says what it did."""


@dataclass(frozen=True)
class Pace:
    """How fast the slow faults go: `scale` 1 are the issue's own numbers, in seconds."""

    scale: float = 1.0

    def config(self, primary: Provider, fallback: Provider) -> str:
        """Return the gateway's configuration."""
        ten = 10 * self.scale
        config = CONFIG.format(primary=primary.root, fallback=fallback.root, ttft=ten, idle=ten, reset=ten)
        for name in (*(fault.name for fault in FAULTS), LATE_FILTER):
            config += MODEL.format(model=name, second="prefill" if name == "reject-prefill" else "fallback")
        return config


@dataclass(frozen=True)
class Bench:
    """A running gateway with its two providers."""

    gateway: str
    primary: Provider
    fallback: Provider
    pace: Pace


@dataclass(frozen=True)
class Score:
    """What happened: in words for the table, attempts as the providers counted them."""

    got: str
    primary: int
    fallback: int
    seconds: float


@dataclass(frozen=True)
class Fault:
    """One row. `run` raises Missed."""

    name: str
    title: str
    run: Callable[[Bench, str], Awaitable[Score]]


def expect(fact: object, words: str) -> None:
    """Raise Missed unless `fact`."""
    if not fact:
        raise Missed(words)


def whole(got: Got) -> None:
    """Expect the whole text, once, in order, in one stream without a gap and with an ending."""
    expect(got.status == 200, f"status {got.status}: {got.error}")
    expect(got.error is None, f"the stream ended in an error: {got.error}")
    expect(got.text == TEXT, f"another text: {got.text!r}")
    expect(got.done and got.finish == "stop", "no ending")
    expect(got.ids == list(range(1, len(got.ids) + 1)), f"ids with a gap: {got.ids}")
    expect(len({chunk["id"] for chunk in got.chunks}) == 1, "chunks of several ids")


async def both(bench: Bench, model: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what each provider has seen of a fault."""
    return await bench.primary.seen(model), await bench.fallback.seen(model)


def rescued(
    *script: dict[str, Any], primary: tuple[int, int], fallback: int, within: float = 60.0
) -> Callable[[Bench, str], Awaitable[Score]]:
    """Return a fault that the caller must not notice.

    `primary` is how many attempts it may see at the least and the most, `fallback` how many there must be,
    `within` the seconds to the end of the answer, at scale 1.
    """

    async def run(bench: Bench, model: str) -> Score:
        scale = bench.pace.scale
        calls = [{**call, "ttft": call["ttft"] * scale} if "ttft" in call else call for call in script]
        await bench.primary.script(model, *calls)
        await bench.fallback.script(model, SAY)
        got = await ask(bench.gateway, model)
        first, second = await both(bench, model)
        whole(got)
        expect(primary[0] <= len(first) <= primary[1], f"{len(first)} attempts at the primary")
        expect(len(second) == fallback, f"{len(second)} attempts at the fallback")
        expect(got.took <= max(within * scale, 15.0), f"it took {got.took:.1f} s")
        expect(got.usage.get("completion_tokens") == TOKENS, f"usage {got.usage}")
        return Score("whole text", len(first), len(second), got.took)

    return run


async def wait_it_out(bench: Bench, model: str) -> Score:
    """429 with `Retry-After: 2` once."""
    await bench.primary.script(model, {"status": 429, "headers": {"Retry-After": "2"}}, SAY)
    await bench.fallback.script(model, SAY)
    got = await ask(bench.gateway, model)
    first, second = await both(bench, model)
    whole(got)
    times = sorted(seen["started_at"] for seen in first)
    early = [at for at in times + [seen["started_at"] for seen in second] if at - times[0] < 1.5]
    expect(len(early) <= 2, f"{len(early)} attempts in the first 1.5 s")
    expect(len(times) == 1 or times[1] - times[0] >= 2, f"asked again after {times[-1] - times[0]:.2f} s")
    return Score("whole text", len(first), len(second), got.took)


async def no_done(bench: Bench, model: str) -> Score:
    """Complete, but without `[DONE]`."""
    await bench.primary.script(model, {**SAY, "done": False})
    got = await ask(bench.gateway, model)
    first, second = await both(bench, model)
    whole(got)
    expect(len(first) == 1 and not second, "a complete answer was asked for again")
    expect(got.took - got.last < 1.5, f"it ended {got.took - got.last:.1f} s after its last chunk")
    expect(got.usage.get("completion_tokens") == TOKENS, f"usage {got.usage}")
    return Score("whole text, usage", len(first), len(second), got.took)


async def content_filter(bench: Bench, model: str) -> Score:
    """Refused by the provider's content filter: before the answer, and (another model) as its finish reason."""
    await bench.primary.script(model, {"status": 400, "error": UNSAFE})
    await bench.primary.script(LATE_FILTER, {"tokens": 5, "finish": "content_filter"})
    got, late = await ask(bench.gateway, model), await ask(bench.gateway, LATE_FILTER)
    first, second = await both(bench, model)
    first_late, second_late = await both(bench, LATE_FILTER)
    expect(got.status == 400 and got.error and got.error["code"] == "content_filter", f"{got.status}: {got.error}")
    expect(got.error and got.error["message"] == UNSAFE["message"], f"another message: {got.error}")
    expect(late.finish == "content_filter" and late.done, f"finish reason {late.finish}")
    expect(len(first) == len(first_late) == 1, "the primary was asked again")
    expect(not second and not second_late, "the fallback was asked")
    return Score("400 `content_filter`, or the finish reason", len(first), len(second), got.took)


async def rejects_prefill(bench: Bench, model: str) -> Score:
    """Cut after 40 of 60 tokens, and a fallback that rejects an assistant message at the end."""
    await bench.primary.script(model, {**SAY, "cut_after": 40})
    await bench.fallback.script(model, {**SAY, "reject_prefill": True})
    got = await ask(bench.gateway, model)
    first, second = await both(bench, model)
    whole(got)
    expect(len(first) <= MAX_ATTEMPTS, f"{len(first)} attempts at the primary")
    expect([seen["status"] for seen in second] == [200], f"the fallback answered {[s['status'] for s in second]}")
    return Score("whole text", len(first), len(second), got.took)


async def down_for_a_minute(bench: Bench, model: str) -> Score:
    """Refuse connections at the primary for 60 s under a request every 4 s, then be healthy."""
    scale = bench.pace.scale
    await bench.fallback.script(model, SAY)
    await bench.primary.down()
    began, asked, waiting = time.monotonic(), 0, []
    while time.monotonic() - began < 60 * scale:
        waiting.append(asyncio.create_task(ask(bench.gateway, model)))
        asked += 1
        await asyncio.sleep(4 * scale)
    for got in await asyncio.gather(*waiting):
        whole(got)
    attempts = await refused(bench, model)
    probes = 60 / 10 + 1
    limit = 5 + MAX_ATTEMPTS - 1 + probes  # requests that were under way when the circuit opened
    expect(attempts <= limit, f"{attempts} attempts at a primary that was down")
    await bench.primary.up()
    await bench.primary.script(model, SAY)
    healthy = time.monotonic()
    while True:
        got = await ask(bench.gateway, model)
        asked += 1
        whole(got)
        back = time.monotonic() - healthy
        if got.headers["x-sluiceway-target"].startswith("primary/"):
            break
        expect(back <= 30 * scale, "not back on the primary in time")
        await asyncio.sleep(4 * scale)
    after, second = await both(bench, model)
    words = f"all {asked} whole, back on the primary after {back:.1f} s"
    return Score(words, attempts + len(after), len(second), time.monotonic() - began)


async def refused(bench: Bench, model: str) -> int:
    """Return the attempts that failed before a provider could count them, from the gateway's metrics."""
    async with aiohttp.request("GET", f"{bench.gateway}/metrics") as response:
        lines = (await response.text()).splitlines()
    errors = [line for line in lines if line.startswith("sluiceway_upstream_errors_total") and f"/{model}" in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in errors)


async def accounting(bench: Bench, model: str) -> Score:
    """Expect that the answer names who gave it, and that its usage is that one's."""
    await bench.primary.script(model, {"status": 500})
    await bench.fallback.script(model, {**SAY, "model_echo": "the-fallback-model"})
    got = await ask(bench.gateway, model)
    first, second = await both(bench, model)
    whole(got)
    expect({chunk["model"] for chunk in got.chunks} == {"the-fallback-model"}, "chunks name another model")
    expect(got.headers["x-sluiceway-target"] == f"fallback/{model}", got.headers["x-sluiceway-target"])
    expect(got.usage.get("completion_tokens") == TOKENS, f"usage {got.usage}")
    expect(len(second) == 1 and len(first) <= MAX_ATTEMPTS, f"{len(first)} and {len(second)} attempts")
    return Score("whole text, the fallback's model and usage", len(first), len(second), got.took)


CUT = {**SAY, "cut_after": 40}
ONCE, TWICE, BOUNDED = (1, 1), (2, 2), (1, MAX_ATTEMPTS)
FAULTS = (
    Fault("retry-after", "429 with `Retry-After: 2`, once", wait_it_out),
    Fault("429", "429 for ever", rescued({"status": 429}, primary=BOUNDED, fallback=1)),
    Fault("500-once", "500 once", rescued({"status": 500}, SAY, primary=TWICE, fallback=0)),
    Fault("503", "503 for ever", rescued({"status": 503}, primary=BOUNDED, fallback=1)),
    Fault("reset", "reset before the headers", rescued({"reset_before_head": True}, primary=BOUNDED, fallback=1)),
    Fault("silent", "no answer at all", rescued({"never_answer": True}, primary=ONCE, fallback=1, within=15)),
    Fault("slow", "headers at once, first token after 20 s",
          rescued({"ttft": 20}, primary=ONCE, fallback=1, within=15)),
    Fault("cut", "cut after 40 of 60 tokens", rescued(CUT, SAY, primary=TWICE, fallback=0)),
    Fault("stall", "stall after 20 tokens", rescued({**SAY, "stall_after": 20}, primary=ONCE, fallback=1, within=15)),
    Fault("garbage", "a garbage frame as the tenth", rescued({**SAY, "garbage_at": 9}, SAY, primary=TWICE, fallback=0)),
    Fault("no-done", "complete, but without `[DONE]`", no_done),
    Fault("context", "`context_length_exceeded`",
          rescued({"status": 400, "error": LONG_PROMPT}, primary=ONCE, fallback=1)),
    Fault("filter", "content filter", content_filter),
    Fault("reject-prefill", "cut, and a fallback that rejects prefill", rejects_prefill),
    Fault("outage", "primary down for 60 s, a request every 4 s", down_for_a_minute),
    Fault("accounting", "failover accounting", accounting),
)  # fmt: skip
