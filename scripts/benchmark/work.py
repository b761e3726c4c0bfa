"""The work of a relay and its cost. One call here is one measurement of one figure."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from subprocess import PIPE, STDOUT, Popen
from typing import Any

from lab.processes import running

from .relays import Relay


class BenchError(Exception):
    """A measurement has no figure, as a stream was lost or a process failed."""


def load(kind: str, relay: Relay, **options: object) -> dict[str, Any]:
    """Run the load process to its end; return its result."""
    result: dict[str, Any]
    with _load_process(kind, relay, options) as process:
        output, _ = process.communicate(timeout=90)
        if process.returncode:
            raise _failed(kind, relay, process, output)
    result = json.loads(output)
    return result


def cpu_of(relay: Relay, **options: object) -> tuple[float, dict[str, Any]]:
    """Return the seconds of CPU that the relay used for a load, and the result of the load."""
    before = relay.process.cpu()
    result = load("streams", relay, **options)
    time.sleep(0.05)  # what the relay does after the client has its answer belongs to the work
    return relay.process.cpu() - before, result


@contextmanager
def core_to_itself(relay: Relay, upstream: Relay) -> Iterator[None]:
    """Keep everything else off the relay's core: the upstream, and the load that is started in the block.

    Unpaced, whoever shares a core with the relay decides how many tokens it finds in one read, and so what each costs:
    left to the scheduler, the figures of one relay differ threefold from run to run.
    """
    cores = os.sched_getaffinity(0)
    own, others = {min(cores)}, cores - {min(cores)}
    if not others:
        yield
        return
    relay.process.pin(own)
    upstream.process.pin(others)
    os.sched_setaffinity(0, others)  # the load inherits it
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        relay.process.pin(cores)
        upstream.process.pin(cores)


def memory_of_idle(relay: Relay, count: int, model: str) -> float:
    """Return how many bytes of resident memory the relay grew per open stream that is idle."""
    before = relay.process.memory()
    with _load_process("hold", relay, {"model": model, "connections": count}) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise _failed("hold", relay, process, "")
        time.sleep(0.5)  # allocators and timers come to rest
        grown = relay.process.memory() - before
        output, _ = process.communicate(timeout=30)  # this closes its input, which ends it
        if process.returncode:
            raise _failed("hold", relay, process, output)
    return grown / count


def _load_process(kind: str, relay: Relay, options: dict[str, object]) -> AbstractContextManager[Popen[str]]:
    arguments = [kind, "--port", str(relay.port), "--path", relay.path]
    arguments += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return running("benchmark.load", arguments, stdin=PIPE, stderr=STDOUT)


def _failed(kind: str, relay: Relay, process: Popen[str], output: str) -> BenchError:
    said = output or process.communicate(timeout=30)[0]
    return BenchError(
        f"{kind} through {relay.name}: {said.strip()[-1500:]}\n{relay.name} said: {relay.process.complaint()}"
    )
