"""Run `scripts/chaos` and print a table of what was broken and what came of it.

The exit status is 0 if nothing was lost, repeated, altered, truncated or left unfinished, else 1. It is 2 if a process
did not start or ended badly.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
from lab.report import table

from chaos_test.client import Client, Verdict
from chaos_test.cluster import Cluster
from chaos_test.faults import answers, break_processes
from chaos_test.messages_client import MessagesClient
from chaos_test.responses_client import ResponsesClient

CLIENTS = (Client, ResponsesClient, MessagesClient)
MUST_BE_ZERO = ("lost", "repeated", "altered", "truncated", "unfinished")


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="chaos", description="Break everything around hundreds of streams, and count what is lost."
    )
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="how long new streams are begun; the last ones end later"
    )
    parser.add_argument("--streams", type=int, default=200, help="number of streams at the same time")
    parser.add_argument("--store", choices=("sqlite", "redis"), default="redis", help="store that both gateways share")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="for the same choices again")
    parser.add_argument("--pause", type=float, default=5.0, help="average seconds from one broken process to the next")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the logs of all processes there")
    options = parser.parse_args()
    print(f"seed {options.seed}: two gateways with {options.store} behind nginx, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        # A new folder for each run. A store of an earlier run has streams under the same idempotency keys.
        folder = options.keep.resolve() / f"{options.seed}-{time.time():.0f}" if options.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            verdicts, broken = asyncio.run(_run(options, folder))
        except RuntimeError as error:
            print(f"chaos: {error}", file=sys.stderr)
            return 2
    return _report(verdicts, broken)


async def _run(options: argparse.Namespace, folder: Path) -> tuple[list[Verdict], Counter[str]]:
    broken: Counter[str] = Counter()
    async with Cluster(options.store, folder) as cluster, aiohttp.ClientSession() as session:
        pause = (options.pause * 0.5, options.pause * 1.5)
        breaking = asyncio.create_task(break_processes(cluster, random.Random(options.seed + 1), broken, pause))  # noqa: S311  # a seed repeats it
        until = time.monotonic() + options.seconds

        async def one_after_another(number: int) -> list[Verdict]:
            chance = random.Random(options.seed * 1_000_003 + number)  # noqa: S311
            verdicts: list[Verdict] = []
            while time.monotonic() < until:
                verdicts.append(await _one(session, cluster, chance, f"chaos-{number}-{len(verdicts)}"))
            return verdicts

        _, lists = await asyncio.gather(
            _progress(until), asyncio.gather(*(one_after_another(n) for n in range(options.streams)))
        )
        breaking.cancel()
        with suppress(asyncio.CancelledError):
            await breaking
    return [verdict for verdicts in lists for verdict in verdicts], broken


async def _one(session: aiohttp.ClientSession, cluster: Cluster, chance: random.Random, model: str) -> Verdict:
    """Run one stream to its ending; `model` is a name of its own, under which the provider has its scripts."""
    calls, faults, text = answers(chance, model)
    address = f"http://127.0.0.1:{cluster.provider.port}/_script"
    async with session.post(address, json={"model": model, "calls": calls}) as answer:
        answer.raise_for_status()
    kind = chance.choice(CLIENTS)
    client = kind(cluster.nginx.port, model, text, chance)
    client.verdict.faults.update(faults)
    client.verdict.path = kind.path
    return await client.run()


async def _progress(until: float) -> None:
    while sys.stderr.isatty() and time.monotonic() < until:
        print(f"\r{until - time.monotonic():4.0f} s left", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(1)


def _report(verdicts: list[Verdict], broken: Counter[str]) -> int:
    faults = sum((verdict.faults for verdict in verdicts), Counter[str]())
    paths = Counter(f"streams of {verdict.path}" for verdict in verdicts)
    totals = {name: sum(getattr(verdict, name) for verdict in verdicts) for name in MUST_BE_ZERO}
    rows = [
        ("streams", len(verdicts)),
        *sorted(paths.items()),
        ("streams with a fault of their own", sum(1 for verdict in verdicts if verdict.faults)),
        *sorted((broken + faults).items()),
        ("records", sum(verdict.records for verdict in verdicts)),
        *((f"**{name}**", f"**{count}**") for name, count in totals.items()),
    ]
    print(f"\n{table(('what', 'count'), rows)}")
    for verdict in verdicts:
        if any(getattr(verdict, name) for name in MUST_BE_ZERO):
            print(f"{verdict.model}: {verdict.words}", file=sys.stderr)
    return int(any(totals.values()))


if __name__ == "__main__":
    sys.exit(main())
