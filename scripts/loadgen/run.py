"""One run: the processes are started, the client drives, the gateway is sampled, and what was measured is returned."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

from benchmark.machine import Machine
from benchmark.relays import SCRIPTS

from .gateway import Gateway, gateway, upstream
from .plan import Plan

SELDOM = 5  # every so many samples what is dear to count is counted: descriptors and tasks
AT_REST = 3.0  # seconds for everything to come to rest after the last stream
SHORT = 20.0  # seconds of retention that are waited for
Sample = dict[str, float]


@dataclass
class Run:
    """What was measured."""

    plan: Plan
    samples: list[Sample] = field(default_factory=list)  # one a second
    before: Sample = field(default_factory=dict)  # at rest
    after: Sample = field(default_factory=dict)  # at rest again
    result: dict[str, Any] = field(default_factory=dict)
    others: float = 0.0  # cores that others kept busy


class LoadError(Exception):
    """A process of the run failed."""


@dataclass
class Place:
    """Where the load goes: to a gateway of its own, or to one that runs already."""

    folder: Path
    port: int = 0  # of a gateway that runs already
    upstream_port: int = 0  # that it relays to
    pid: int = 0


def run(plan: Plan, place: Place, show: Callable[[Plan, Sample], None]) -> Run:
    """Run the plan; SIGINT and SIGTERM end it early, with what has been measured. Raises LoadError."""
    found = Run(plan)
    with ExitStack() as stack:
        upstream_port = stack.enter_context(upstream(place.folder, place.upstream_port))
        watched = Gateway(place.port, place.pid)
        if not place.port:
            watched = stack.enter_context(gateway(plan, upstream_port, place.folder))
        machine = Machine()
        time.sleep(0.5)
        found.before = _seldom(watched)
        told = {**asdict(plan), "port": watched.port, "upstream_port": upstream_port}
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.client", json.dumps(told)],
            cwd=SCRIPTS,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        for number in (SIGINT, SIGTERM):
            # A handler that raised could lose the line that is just being read.
            signal.signal(number, lambda *_: process.send_signal(SIGINT))
        with process:
            try:
                _follow(process, found, watched, show)
            finally:
                process.kill()
        if not found.result:
            raise LoadError(f"the client process ended with {process.returncode}")
        if not found.result["interrupted"]:
            time.sleep(AT_REST + (plan.retention if plan.retention <= SHORT else 0.0))
        found.after = _seldom(watched)
        found.others = machine.others()
    return found


def _follow(process: subprocess.Popen[str], found: Run, watched: Gateway, show: Callable[[Plan, Sample], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if "result" in said:
            found.result = said["result"]
            return
        sample = _sample(watched, found.samples, said, tasks=found.plan.tasks)
        found.samples.append(sample)
        show(found.plan, sample)


def _sample(watched: Gateway, before: list[Sample], said: Sample, *, tasks: bool) -> Sample:
    last = before[-1] if before else {}
    sample = {**said, "memory": watched.memory(), "cpu": watched.cpu()}
    seconds = sample["at"] - last.get("at", 0.0)
    sample["rate"] = (sample["tokens"] - last.get("tokens", 0)) / seconds if seconds > 0 else 0.0
    if len(before) % SELDOM:
        return {**sample, **{key: last[key] for key in ("descriptors", "tasks") if key in last}}
    sample["descriptors"] = watched.descriptors()
    if tasks:
        sample["tasks"] = watched.tasks()
    return sample


def _seldom(watched: Gateway) -> Sample:
    return {
        "memory": watched.memory(),
        "descriptors": watched.descriptors(),
        "tasks": watched.tasks(),
        "cpu": watched.cpu(),
    }
