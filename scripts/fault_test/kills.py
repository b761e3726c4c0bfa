"""Kill a real model in the middle of its streams, and compare what the caller got with the uninterrupted text.

By restart the two are equal at temperature 0. By continuation the caller must have exactly what was delivered before
the kill (a beginning of the uninterrupted text) followed by exactly what the model says when it is asked, directly and
without the gateway, to go on from there: so nothing is lost, repeated or garbled at the seam. Whether that is also the
uninterrupted text is the model's affair (the delivered part may be cut into other tokens again), so it is counted.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from local_model import NAME, LocalModel

from .caller import Got, ask, read
from .parts import gateway

PROMPT = [{"role": "user", "content": "Tell me a story about a river, a mill and a fox, in about ten sentences."}]
TOKENS = 120
MARGIN = 10  # chunks at the end in which a kill may come too late to matter

CONFIG = """
[recovery]
strategy = "{strategy}"
max_retries = 8          # the model needs a second to come back, longer on a busy machine,
max_recoveries = 8       # and an attempt that is refused meanwhile counts
breaker_failures = 100   # one target: there is nowhere else to go
backoff = 0.4
[[upstreams]]
name = "model"
base_url = "{url}"
ttft_timeout = 60.0
idle_timeout = 60.0
continuation = "assistant"
[[models]]
name = "*"
targets = ["model/{model}"]
"""


@dataclass
class Tally:
    """What became of the kills."""

    kills: int = 0
    same: int = 0  # the caller's text is the uninterrupted one
    recoveries: int = 0
    wrong: list[str] = field(default_factory=list)


async def run(strategy: str, kills: int, seed: int) -> Tally:
    """Kill the model once in each of `kills` streams, at a random content chunk, under one strategy."""
    dice, tally = random.Random(seed), Tally()  # noqa: S311 — a repeatable experiment
    async with LocalModel() as model, gateway(CONFIG.format(strategy=strategy, url=model.url, model=NAME)) as root:
        plain = await ask(root, NAME, messages=PROMPT, temperature=0, max_tokens=TOKENS)
        while tally.kills < kills:
            after = dice.randrange(1, len(plain.chunks) - MARGIN)
            got, before, recoveries = await _killed(root, model, after)
            if not recoveries:
                continue  # the whole answer was under way already
            tally.kills += 1
            tally.recoveries += recoveries
            tally.same += got.text == plain.text
            if problem := await _problem(model.url, strategy, plain, got, before):
                tally.wrong.append(f"killed after {after} chunks: {problem}")
    return tally


async def _killed(root: str, model: LocalModel, after: int) -> tuple[Got, int, int]:
    """Read a stream, and kill the model after `after` chunks.

    Return the answer, how many of its chunks are from before the kill, and how often it was recovered.
    """
    pid, before, recoveries = model.pid, 0, 0
    assert pid is not None  # it is running
    async with aiohttp.ClientSession() as session:
        path = ""

        async def watch(got: Got) -> None:
            nonlocal path, before
            path = f"{root}/v1/streams/{got.headers['x-stream-id']}"
            if before or len(got.chunks) < after:
                return
            os.kill(pid, signal.SIGKILL)
            # Nothing is added between the failure and the model's return, which takes much longer than this.
            while True:
                state = await _state(session, path)
                if state["recoveries"] or state["usage"]:  # or it has ended: the kill came too late
                    break
                await asyncio.sleep(0.005)
            before = state["records"]

        got = await read(root, _body(), watch)
        recoveries = (await _state(session, path))["recoveries"]
    await model.restarted(pid)
    return got, before, recoveries


async def _state(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path, headers={"Accept": "application/json"}) as response:
        state: dict[str, Any] = await response.json()
        return state


def _body(**changes: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": PROMPT, "temperature": 0, "max_tokens": TOKENS, "stream": True, **changes}


async def _problem(url: str, strategy: str, plain: Got, got: Got, before: int) -> str:
    """Return what is wrong with an answer; nothing where it is as it must be."""
    if got.error or not got.done or got.finish is None:
        return f"no ending: {got.error}"
    if strategy == "restart":
        return "" if got.text == plain.text else f"another text: {got.text!r}"
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in got.chunks[:before]]
    delivered, tokens = "".join(pieces), sum(map(bool, pieces))
    if not plain.text.startswith(delivered) or not got.text.startswith(delivered):
        return f"what was delivered is not the beginning: {delivered!r}"
    prefill = delivered.rstrip()
    said = await _continued(url, prefill, TOKENS - tokens)
    stripped = delivered[len(prefill) :]
    whole = prefill + said if said.startswith(stripped) else delivered + said
    return "" if got.text == whole else f"not what the model goes on with: {got.text!r} instead of {whole!r}"


async def _continued(url: str, prefill: str, tokens: int) -> str:
    """Return how the model itself, asked directly, goes on from `prefill`."""
    messages = [*PROMPT, {"role": "assistant", "content": prefill}]
    return (await read(url.removesuffix("/v1"), _body(messages=messages, max_tokens=tokens))).text


async def main(kills: int, seed: int) -> int:
    """Run both ways and print what came of it."""
    wrong = 0
    print("| recovery | kills | whole, nothing lost or told twice | the uninterrupted text | recoveries needed |")
    print("|---|---|---|---|---|")
    for strategy in ("restart", "continue"):
        tally = await run(strategy, kills, seed)
        good = tally.kills - len(tally.wrong)
        print(f"| {strategy} | {tally.kills} | {good} | {tally.same} | {tally.recoveries} |", flush=True)
        for problem in tally.wrong:
            print(problem, file=sys.stderr)
        wrong += len(tally.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/model_kills", description="Kill a real model in mid-stream.")
    parser.add_argument("--kills", type=int, default=50, help="for each way of recovery")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.kills, options.seed)))
