"""The load, in its own process: `python -m benchmark.load KIND OPTIONS` prints its result as one line of JSON.

Every token is checked, after the measured time; an answer that is not exactly right ends it with exit status 1.
"""

import argparse
import asyncio
import json
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import uvloop
from lab.expected import check
from lab.reader import Collected, Connection, WrongError
from lab.script import CHAT, TOKEN, question, script

Options = argparse.Namespace
Result = dict[str, Any]


async def streams(options: Options) -> Result:
    """Send requests over several keep-alive connections at once, on each one after the other."""

    async def one() -> list[list[tuple[float, bytes]]]:
        connection = await Connection().open(options.port)
        answers = []
        for _ in range(options.requests):
            await connection.exchange(message, answer := Collected())
            answers.append(answer.parts)
        connection.close()
        return answers

    told, message = script(options.model), question(options.port, options.path, options.model)
    began = monotonic()
    collected = await asyncio.gather(*(one() for _ in range(options.connections)))
    seconds = monotonic() - began
    waits = [next((at for at, data in answers[0] if TOKEN in data), monotonic()) - began for answers in collected]
    answers = [check(parts, told) for several in collected for parts in several]
    result: Result = {
        "seconds": seconds,
        "requests": len(answers),
        "tokens": len(answers) * told.tokens,
        "streams": [answer.stream_id for answer in answers],
        "waits": percentiles(waits),
    }
    if told.kind == "stamped":
        result["latencies"] = percentiles([each for answer in answers for each in answer.latencies()])
    return result


async def first_token(options: Options) -> Result:
    """Send requests at a fixed rate, in turn to the relay and straight to the upstream: seconds to the first token.

    The rate holds whether answers come or not: a slow relay does not get fewer requests.
    """
    told = script(options.model)
    idle: dict[int, list[Connection]] = {options.port: [], options.direct: []}
    found: dict[int, list[float]] = {options.port: [], options.direct: []}

    async def one(port: int) -> None:
        connection = idle[port].pop() if idle[port] else await Connection().open(port)
        began = monotonic()
        await connection.exchange(question(port, options.path, options.model), answer := Collected())
        idle[port].append(connection)
        found[port].append(next(at for at, data in answer.parts if TOKEN in data) - began)
        check(answer.parts, told)

    began = monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(2 * int(options.rate * options.seconds)):
            await asyncio.sleep(max(0.0, began + number / (2 * options.rate) - monotonic()))
            group.create_task(one(options.direct if number % 2 else options.port))
    return {"relayed": percentiles(found[options.port]), "direct": percentiles(found[options.direct])}


async def hold(options: Options) -> Result:
    """Hold streams open that have got one token. Print a line when all have, and end when the input is closed."""
    message = question(options.port, options.path, options.model)
    connections: list[Connection] = []
    for _ in range(options.connections):
        connection = await Connection().open(options.port)
        await connection.exchange(message, Collected(until=TOKEN))
        connections.append(connection)
    print(json.dumps({"open": len(connections)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    closed = sum(connection.transport.is_closing() for connection in connections)
    if closed:
        raise WrongError("lost", b"%d of %d idle streams were closed" % (closed, len(connections)))
    return {"open": len(connections)}


async def disconnect(options: Options) -> Result:
    """Let each client leave after its first token, one by one. Return the seconds until the upstream noticed each."""
    left: dict[str, float] = {}  # tag: when its client left (CLOCK_MONOTONIC, seconds)
    for number in range(options.requests):
        tag = f"{options.port}-{monotonic()}-{number}"
        connection = await Connection().open(options.port)
        message = question(options.port, options.path, options.model, tag)
        await connection.exchange(message, Collected(until=TOKEN))
        await asyncio.sleep(0.005)  # the relay rests now, as it does between two tokens
        left[tag] = monotonic()
        connection.close()
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)  # a slow notice must count as well
    with urllib.request.urlopen(f"http://127.0.0.1:{options.direct}/closed") as answer:  # noqa: ASYNC210
        told = json.load(answer)
    missing = [tag for tag in left if tag not in told]
    if missing:
        raise WrongError("never told", b"the upstream, of %d of %d disconnects" % (len(missing), len(left)))
    return {"cancelled": percentiles([told[tag] - when for tag, when in left.items()])}


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest value."""
    values = sorted(values)
    return {"p50": values[len(values) // 2], "p99": values[int(len(values) * 0.99)], "max": values[-1]}


KINDS: dict[str, Callable[[Options], Coroutine[Any, Any, Result]]] = {
    "streams": streams,
    "first_token": first_token,
    "hold": hold,
    "disconnect": disconnect,
}


async def run(options: Options) -> Result:
    """Run one kind of load within its time limit."""
    async with asyncio.timeout(options.limit):
        return await KINDS[options.kind](options)


def main() -> None:
    """Read the options, run the load, and print its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, required=True, help="port of the relay")
    parser.add_argument("--path", default=CHAT, help="path of the requests: it says the dialect")
    parser.add_argument("--direct", type=int, default=0, help="port of the upstream")
    parser.add_argument("--model", default="", help="name of a model, which stands for a script of the upstream")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1, help="requests on each connection, one after the other")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds until the load gives up")
    try:
        print(json.dumps(uvloop.run(run(parser.parse_args()))), flush=True)
    except (WrongError, OSError) as failure:  # TimeoutError is an OSError
        sys.exit(f"{type(failure).__name__}: {failure}")


if __name__ == "__main__":
    main()
