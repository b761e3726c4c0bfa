"""Kill a real model in the middle of its streams, and compare the caller's text with the uninterrupted text.

After a restart the two must be equal, at temperature 0.

After a continuation the caller's text must be two parts. The first is what was delivered before the kill, which is a
beginning of the uninterrupted text. The second is exactly what the model says if it is asked directly, without the
gateway, to go on from there. So nothing is lost, repeated or garbled at the seam. The model may split the delivered
part into other tokens and then go on differently. So it is only counted how often the two texts are equal.
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
from lab.places import own_gateway
from lab.report import head, row
from local_model import NAME, LocalModel

from .caller import Answer, ask, connect, exchange, read

PROMPT = [{"role": "user", "content": "Tell me a story about a river, a mill and a fox, in about ten sentences."}]
HEADS = ("recovery", "kills", "whole, nothing lost or told twice", "the uninterrupted text", "recoveries needed")
TOKENS = 120
MARGIN = 10  # chunks at the end: a kill there may come when the whole answer is under way already


def tables(strategy: str, url: str) -> dict[str, Any]:
    """Return the gateway's configuration."""
    return {
        "server": {"drain_notice": 0.0},
        "recovery": {
            "strategy": strategy,
            # The model takes a second to come back, longer on a busy machine. Refused attempts count meanwhile.
            "max_retries": 8,
            "max_recoveries": 8,
            "backoff": 0.4,
            "breaker_failures": 100,  # there is no other target
        },
        "upstreams": [
            {"name": "model", "base_url": url, "ttft_timeout": 60.0, "idle_timeout": 60.0, "continuation": "assistant"}
        ],
        "models": [{"name": "*", "targets": [f"model/{NAME}"]}],
    }


@dataclass
class Tally:
    """The results of all kills under one strategy. `same` counts the texts that equal the uninterrupted one."""

    kills: int = 0
    same: int = 0
    recoveries: int = 0
    wrong: list[str] = field(default_factory=list)


async def run(strategy: str, kills: int, seed: int, tokens: int = TOKENS) -> Tally:
    """Kill the model once in each of `kills` streams of `tokens`, at a random content chunk, under one strategy."""
    chance, tally = random.Random(seed), Tally()  # noqa: S311 — a repeatable experiment
    async with LocalModel() as model, own_gateway(tables(strategy, model.url)) as root:
        plain = await ask(root, NAME, messages=PROMPT, temperature=0, max_tokens=tokens)
        while tally.kills < kills:
            after = chance.randrange(1, len(plain.chunks) - MARGIN)
            answer, before, recoveries = await _kill_mid_stream(root, model, after, tokens)
            if not recoveries:
                continue  # the whole answer was under way already
            tally.kills += 1
            tally.recoveries += recoveries
            tally.same += answer.text == plain.text
            if problem := await _problem(model.url, strategy, plain, answer, before, tokens):
                tally.wrong.append(f"killed after {after} chunks: {problem}")
    return tally


async def _kill_mid_stream(root: str, model: LocalModel, after: int, tokens: int) -> tuple[Answer, int, int]:
    """Read a stream, and kill the model after `after` chunks.

    Return the answer, the number of its chunks from before the kill, and the number of its recoveries.
    """
    pid = model.pid
    assert pid is not None  # it is running
    answer, connection = Answer(pause_at=after), await connect(root)
    reading = asyncio.create_task(exchange(connection, _body(max_tokens=tokens), answer))
    await answer.paused.wait()
    os.kill(pid, signal.SIGKILL)
    async with aiohttp.ClientSession() as session:
        path = f"{root}/v1/streams/{answer.headers['x-stream-id']}"
        # The model takes much longer to come back than this takes. So no record is added meanwhile.
        while True:
            state = await _state(session, path)
            if state["recoveries"] or state["usage"]:  # or the stream has ended: the kill came too late
                break
            await asyncio.sleep(0.005)
        connection.go_on()
        await reading
        recoveries = (await _state(session, path))["recoveries"]
    await model.restarted(pid)
    return answer, state["records"], recoveries


async def _state(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path, headers={"Accept": "application/json"}) as response:
        state: dict[str, Any] = await response.json()
        return state


def _body(**changes: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": PROMPT, "temperature": 0, "stream": True, **changes}


async def _problem(url: str, strategy: str, plain: Answer, answer: Answer, before: int, tokens: int) -> str:
    """Return what is wrong with an answer, or an empty text."""
    if answer.error or not answer.ended or answer.finish is None:
        return f"no ending: {answer.error}"
    if strategy == "restart":
        return "" if answer.text == plain.text else f"another text: {answer.text!r}"
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in answer.chunks[:before]]
    delivered, told = "".join(pieces), sum(map(bool, pieces))
    if not plain.text.startswith(delivered) or not answer.text.startswith(delivered):
        return f"what was delivered is not the beginning: {delivered!r}"
    prefill = delivered.rstrip()
    continuation = await _continued(url, prefill, tokens - told)
    stripped = delivered[len(prefill) :]
    expected = prefill + continuation if continuation.startswith(stripped) else delivered + continuation
    return "" if answer.text == expected else f"the model goes on with {expected!r}, but the answer is {answer.text!r}"


async def _continued(url: str, prefill: str, tokens: int) -> str:
    """Return how the model goes on from `prefill` if it is asked without the gateway."""
    messages = [*PROMPT, {"role": "assistant", "content": prefill}]
    return (await read(url.removesuffix("/v1"), _body(messages=messages, max_tokens=tokens))).text


async def main(kills: int, seed: int) -> int:
    """Run the experiment with both strategies and print the results; return the exit status."""
    wrong = 0
    print(head(HEADS))
    for strategy in ("restart", "continue"):
        tally = await run(strategy, kills, seed)
        good = tally.kills - len(tally.wrong)
        print(row([strategy, tally.kills, good, tally.same, tally.recoveries]), flush=True)
        for problem in tally.wrong:
            print(problem, file=sys.stderr)
        wrong += len(tally.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="scripts/model_kills", description="Kill a real model in mid-stream, and check the texts."
    )
    parser.add_argument("--kills", type=int, default=50, help="number of kills under each strategy")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.kills, options.seed)))
