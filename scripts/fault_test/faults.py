"""The sixteen faults: what each provider does, what the caller must get, and how many requests each provider may see.

Each fault has its own model at both providers. So all can run at once, and none opens the circuit of another.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from lab.provider import Provider

from server.config.settings import Upstream

from .caller import Answer, ask

TOKENS = 60
TEXT = "".join(f"tok{i} " for i in range(TOKENS))
SAY: dict[str, Any] = {"tokens": TOKENS}
LONG_PROMPT = {"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"}
UNSAFE = {"message": "The response was filtered.", "code": "content_filter"}
LATE_FILTER = "filter-late"  # the second model of that fault
SECOND = {"reject-prefill": "prefill"}  # the upstream beside the primary, where it is not the fallback
MAX_ATTEMPTS = 3  # at one target: 1 + max_retries
DEFAULT_LIMIT: float = Upstream.model_fields["ttft_timeout"].default  # and that of idle_timeout
SLOW = frozenset({"ttft", "stall_for"})  # the times of a script
AFTER_LIMIT = 5.0  # seconds after a limit in which the fallback must have answered


class UnexpectedOutcome(Exception):
    """The gateway did something else than it must under a fault; the text says what."""


@dataclass(frozen=True)
class Pace:
    """How fast the slow faults go: with `scale` 1 they take as long as their titles say.

    `defaults`: the gateway has its own default limits. Otherwise the primary may be silent for 10 s, times `scale`.
    """

    scale: float = 1.0
    defaults: bool = False

    @property
    def limit(self) -> float:
        """The seconds that the primary may be silent."""
        return DEFAULT_LIMIT if self.defaults else 10 * self.scale

    def tables(self, primary: Provider, fallback: Provider) -> dict[str, Any]:
        """Return the gateway's configuration, in the form of a parsed TOML file."""
        limits: dict[str, Any] = {} if self.defaults else {"ttft_timeout": self.limit, "idle_timeout": self.limit}
        return {
            "server": {"drain_notice": 0.0},
            "upstreams": [
                {"name": "fallback", "base_url": fallback.url},
                {"name": "prefill", "base_url": fallback.url, "continuation": "assistant"},
                {"name": "primary", "base_url": primary.url, **limits},
            ],
            "recovery": {} if self.defaults else {"breaker_reset": self.limit},
            # Each fault has its own target. With "primary/*" all of them would share one circuit.
            "models": [
                {"name": name, "targets": [f"primary/{name}", f"{SECOND.get(name, 'fallback')}/{name}"]}
                for name in (*(fault.name for fault in FAULTS), LATE_FILTER)
            ],
        }


@dataclass(frozen=True)
class Installation:
    """A running gateway with its two providers; `gateway` is its root URL."""

    gateway: str
    primary: Provider
    fallback: Provider
    pace: Pace


@dataclass(frozen=True)
class Outcome:
    """What happened: `words` for the table, and the attempts that each provider has counted."""

    words: str
    primary: int
    fallback: int
    seconds: float


@dataclass(frozen=True)
class Fault:
    """One fault, which is one row of the table. `run` gets its name and raises UnexpectedOutcome."""

    name: str
    title: str
    run: Callable[[Installation, str], Awaitable[Outcome]]


def expect(fact: object, words: str) -> None:
    """Raise UnexpectedOutcome unless `fact` is true."""
    if not fact:
        raise UnexpectedOutcome(words)


def expect_whole(answer: Answer) -> None:
    """Expect the whole text once, in one stream whose ids have no gap, and its ending."""
    expect(answer.status == 200, f"status {answer.status}: {answer.error}")
    expect(answer.error is None, f"the stream ended in an error: {answer.error}")
    expect(answer.text == TEXT, f"another text: {answer.text!r}")
    expect(answer.ended and answer.finish == "stop", "no ending")
    expect(answer.ids == list(range(1, len(answer.ids) + 1)), f"ids with a gap: {answer.ids}")
    expect(len({chunk["id"] for chunk in answer.chunks}) == 1, "chunks of several ids")


async def seen_by_both(installation: Installation, model: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the requests that each provider has seen for a model."""
    return await installation.primary.seen(model), await installation.fallback.seen(model)


def unnoticed(
    *script: dict[str, Any], primary: tuple[int, int], fallback: int, within: float | None = 60.0
) -> Callable[[Installation, str], Awaitable[Outcome]]:
    """Return a fault that the caller must not notice. The primary answers with `script`.

    `primary` is the least and the most attempts at the primary, `fallback` the attempts at the fallback. The answer may
    take `within` seconds at scale 1; None: as long as the primary may be silent, and a little more.
    """

    async def run(installation: Installation, model: str) -> Outcome:
        scale = installation.pace.scale
        patience = installation.pace.limit + AFTER_LIMIT if within is None else within * scale
        calls = [{name: value * scale if name in SLOW else value for name, value in call.items()} for call in script]
        await installation.primary.script(model, *calls)
        await installation.fallback.script(model, SAY)
        answer = await ask(installation.gateway, model)
        first, second = await seen_by_both(installation, model)
        expect_whole(answer)
        expect(answer.took <= max(patience, 15.0), f"it took {answer.took:.1f} s")
        expect(primary[0] <= len(first) <= primary[1], f"{len(first)} attempts at the primary")
        expect(len(second) == fallback, f"{len(second)} attempts at the fallback")
        expect(answer.usage.get("completion_tokens") == TOKENS, f"usage {answer.usage}")
        return Outcome("whole text", len(first), len(second), answer.took)

    return run


async def retry_after(installation: Installation, model: str) -> Outcome:
    """Answer 429 with `Retry-After: 2` once: the primary is asked again after two seconds, not earlier."""
    await installation.primary.script(model, {"status": 429, "headers": {"Retry-After": "2"}}, SAY)
    await installation.fallback.script(model, SAY)
    answer = await ask(installation.gateway, model)
    first, second = await seen_by_both(installation, model)
    expect_whole(answer)
    times = sorted(seen["started_at"] for seen in first)
    early = [at for at in times + [seen["started_at"] for seen in second] if at - times[0] < 1.5]
    expect(len(early) <= 2, f"{len(early)} attempts in the first 1.5 s")
    expect(len(times) == 1 or times[1] - times[0] >= 2, f"asked again after {times[-1] - times[0]:.2f} s")
    return Outcome("whole text", len(first), len(second), answer.took)


async def no_done(installation: Installation, model: str) -> Outcome:
    """Send a complete answer without `[DONE]`: it is not asked for again, and ends without a delay."""
    await installation.primary.script(model, {**SAY, "done": False})
    answer = await ask(installation.gateway, model)
    first, second = await seen_by_both(installation, model)
    expect_whole(answer)
    expect(len(first) == 1 and not second, "a complete answer was asked for again")
    expect(answer.took - answer.last < 1.5, f"it ended {answer.took - answer.last:.1f} s after its last chunk")
    expect(answer.usage.get("completion_tokens") == TOKENS, f"usage {answer.usage}")
    return Outcome("whole text, usage", len(first), len(second), answer.took)


async def content_filter(installation: Installation, model: str) -> Outcome:
    """Refuse the request by a content filter, or end the answer (another model): no other target is asked."""
    await installation.primary.script(model, {"status": 400, "error": UNSAFE})
    await installation.primary.script(LATE_FILTER, {"tokens": 5, "finish": "content_filter"})
    answer, late = await ask(installation.gateway, model), await ask(installation.gateway, LATE_FILTER)
    first, second = await seen_by_both(installation, model)
    first_late, second_late = await seen_by_both(installation, LATE_FILTER)
    expect(
        answer.status == 400 and answer.error and answer.error["code"] == "content_filter",
        f"{answer.status}: {answer.error}",
    )
    expect(answer.error and answer.error["message"] == UNSAFE["message"], f"another message: {answer.error}")
    expect(late.finish == "content_filter" and late.ended, f"finish reason {late.finish}")
    expect(len(first) == len(first_late) == 1, "the primary was asked again")
    expect(not second and not second_late, "the fallback was asked")
    return Outcome("400 `content_filter`, or the finish reason", len(first), len(second), answer.took)


async def rejects_prefill(installation: Installation, model: str) -> Outcome:
    """Cut after 40 of 60 tokens, with a fallback that rejects a request whose last message is an assistant's."""
    await installation.primary.script(model, {**SAY, "cut_after": 40})
    await installation.fallback.script(model, {**SAY, "reject_prefill": True})
    answer = await ask(installation.gateway, model)
    first, second = await seen_by_both(installation, model)
    expect_whole(answer)
    expect(len(first) <= MAX_ATTEMPTS, f"{len(first)} attempts at the primary")
    expect([seen["status"] for seen in second] == [200], f"the fallback answered {[s['status'] for s in second]}")
    return Outcome("whole text", len(first), len(second), answer.took)


async def down_for_a_minute(installation: Installation, model: str) -> Outcome:
    """Refuse connections at the primary for 60 s, with a request every 4 s: it is asked again 30 s later at most."""
    scale = installation.pace.scale
    await installation.fallback.script(model, SAY)
    await installation.primary.down()
    began, asked, waiting = time.monotonic(), 0, []
    while time.monotonic() - began < 60 * scale:
        waiting.append(asyncio.create_task(ask(installation.gateway, model)))
        asked += 1
        await asyncio.sleep(4 * scale)
    for answer in await asyncio.gather(*waiting):
        expect_whole(answer)
    attempts = await refused(installation, model)
    probes = 60 / 10 + 1
    # A stream counts once for the circuit, however often it asks. One more may be under way when the circuit opens.
    limit = (5 + 1) * MAX_ATTEMPTS + probes
    expect(attempts <= limit, f"{attempts} attempts at a primary that was down")
    await installation.primary.up()
    await installation.primary.script(model, SAY)
    healthy = time.monotonic()
    while True:
        answer = await ask(installation.gateway, model)
        asked += 1
        expect_whole(answer)
        back = time.monotonic() - healthy
        if answer.headers["x-sluiceway-target"].startswith("primary/"):
            break
        expect(back <= 30 * scale, "not back on the primary in time")
        await asyncio.sleep(4 * scale)
    after, second = await seen_by_both(installation, model)
    words = f"all {asked} whole, back on the primary after {back:.1f} s"
    return Outcome(words, attempts + len(after), len(second), time.monotonic() - began)


async def refused(installation: Installation, model: str) -> int:
    """Return the attempts that no provider could count, as it was down: the gateway's metrics have them."""
    async with aiohttp.request("GET", f"{installation.gateway}/metrics") as response:
        lines = (await response.text()).splitlines()
    errors = [line for line in lines if line.startswith("sluiceway_upstream_errors_total") and f"/{model}" in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in errors)


async def accounting(installation: Installation, model: str) -> Outcome:
    """Fail at the primary: the answer names the fallback's model and has its usage."""
    await installation.primary.script(model, {"status": 500})
    await installation.fallback.script(model, {**SAY, "model_echo": "the-fallback-model"})
    answer = await ask(installation.gateway, model)
    first, second = await seen_by_both(installation, model)
    expect_whole(answer)
    expect({chunk["model"] for chunk in answer.chunks} == {"the-fallback-model"}, "chunks name another model")
    expect(answer.headers["x-sluiceway-target"] == f"fallback/{model}", answer.headers["x-sluiceway-target"])
    expect(answer.usage.get("completion_tokens") == TOKENS, f"usage {answer.usage}")
    expect(len(second) == 1 and len(first) <= MAX_ATTEMPTS, f"{len(first)} and {len(second)} attempts")
    return Outcome("whole text, the fallback's model and usage", len(first), len(second), answer.took)


CUT = {**SAY, "cut_after": 40}
STALL = {**SAY, "stall_after": 20, "stall_for": 30, "cut_after": 20}
ONCE, TWICE, BOUNDED = (1, 1), (2, 2), (1, MAX_ATTEMPTS)
FAULTS = (
    Fault("retry-after", "429 with `Retry-After: 2`, once", retry_after),
    Fault("429", "429 for ever", unnoticed({"status": 429}, primary=BOUNDED, fallback=1)),
    Fault("500-once", "500 once", unnoticed({"status": 500}, SAY, primary=TWICE, fallback=0)),
    Fault("503", "503 for ever", unnoticed({"status": 503}, primary=BOUNDED, fallback=1)),
    Fault("reset", "reset before the headers", unnoticed({"reset_before_head": True}, primary=BOUNDED, fallback=1)),
    Fault("silent", "no answer at all", unnoticed({"never_answer": True}, primary=ONCE, fallback=1, within=None)),
    Fault("slow", "headers at once, first token after 20 s",
          unnoticed({**SAY, "ttft": 20}, primary=ONCE, fallback=1, within=15)),
    Fault("cut", "cut after 40 of 60 tokens", unnoticed(CUT, SAY, primary=TWICE, fallback=0)),
    Fault("stall", "stall after 20 tokens, hang-up after 30 s",
          unnoticed(STALL, primary=ONCE, fallback=1, within=None)),
    Fault("garbage", "a garbage frame as the tenth",
          unnoticed({**SAY, "garbage_at": 9}, SAY, primary=TWICE, fallback=0)),
    Fault("no-done", "complete, but without `[DONE]`", no_done),
    Fault("context", "`context_length_exceeded`",
          unnoticed({"status": 400, "error": LONG_PROMPT}, primary=ONCE, fallback=1)),
    Fault("filter", "content filter", content_filter),
    Fault("reject-prefill", "cut, and a fallback that rejects prefill", rejects_prefill),
    Fault("outage", "primary down for 60 s, a request every 4 s", down_for_a_minute),
    Fault("accounting", "failover accounting", accounting),
)  # fmt: skip
