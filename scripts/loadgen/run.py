"""One run: start the processes, let the client drive the streams, and sample the gateway meanwhile."""

import json
import signal
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM
from subprocess import Popen
from typing import Any

from lab import places
from lab.machine import Machine
from lab.processes import running

from . import hostile
from .gateway import Gateway, tables
from .plan import Plan

COUNT_EVERY = 5  # samples from one count of descriptors and tasks to the next: they are expensive to count
AT_REST = 3.0  # seconds after the last stream until everything rests
SHORT = 20.0  # seconds; a longer retention is not waited for
Sample = dict[str, float]


@dataclass
class Run:
    """The measurements of a run."""

    plan: Plan
    samples: list[Sample] = field(default_factory=list)  # one per second
    before: Sample = field(default_factory=dict)  # at rest
    after: Sample = field(default_factory=dict)  # at rest again
    result: dict[str, Any] = field(default_factory=dict)
    attacks: dict[str, dict[str, int]] = field(default_factory=dict)  # how each was answered, how often
    others: float = 0.0  # cores that other processes kept busy


class LoadError(Exception):
    """A process of the run failed."""


@dataclass
class Destination:
    """The gateway under load: one that is started for the run, or one that runs already."""

    folder: Path
    port: int = 0  # of a gateway that runs already; 0: start one
    upstream_port: int = 0  # where that gateway's upstream must listen; 0: any
    pid: int = 0


def run(plan: Plan, destination: Destination, show: Callable[[Plan, Sample], None]) -> Run:
    """Run the plan. SIGINT and SIGTERM end it early, with the measurements so far. Raises LoadError."""
    measured = Run(plan)
    with ExitStack() as stack:
        folder = destination.folder
        upstream = stack.enter_context(places.module("lab.upstream", folder, port=destination.upstream_port))
        observed = Gateway(destination.port, destination.pid)
        if not destination.port:
            configuration = tables(plan, upstream.port)
            if plan.attacks:
                _add(configuration, hostile.tables(folder, stack.enter_context(hostile.upstream(folder))))
            # It inherits the limit of descriptors, which __main__ has raised.
            started = stack.enter_context(places.gateway(configuration, folder))
            observed = Gateway(started.port, started.pid)
        machine = Machine()
        time.sleep(0.5)
        measured.before = _rest(observed)
        attackers = stack.enter_context(hostile.attackers(observed.port, plan.attacks)) if plan.attacks else None
        arguments = json.dumps({**asdict(plan), "port": observed.port, "upstream_port": upstream.port})
        process = stack.enter_context(running("loadgen.client", [arguments]))
        for number in (SIGINT, SIGTERM):
            # If a handler raised, the line that is just being read could be lost.
            signal.signal(number, lambda *_: process.send_signal(SIGINT))
        _follow(process, measured, observed, show)
        process.wait()
        if not measured.result:
            raise LoadError(f"the client process ended with {process.returncode}")
        if attackers is not None:
            measured.attacks = attackers.stop()
        if not measured.result["interrupted"]:
            time.sleep(AT_REST + (plan.retention if plan.retention <= SHORT else 0.0))
        measured.after = _rest(observed)
        measured.others = machine.others()
    return measured


def _follow(process: Popen[str], measured: Run, observed: Gateway, show: Callable[[Plan, Sample], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        figures = json.loads(line)
        if "result" in figures:
            measured.result = figures["result"]
            return
        sample = _sample(observed, measured.samples, figures, tasks=measured.plan.tasks)
        measured.samples.append(sample)
        show(measured.plan, sample)


def _sample(observed: Gateway, before: list[Sample], figures: Sample, *, tasks: bool) -> Sample:
    last = before[-1] if before else {}
    sample = {**figures, "memory": observed.memory(), "cpu": observed.cpu()}
    seconds = sample["at"] - last.get("at", 0.0)
    sample["rate"] = (sample["tokens"] - last.get("tokens", 0)) / seconds if seconds > 0 else 0.0
    if len(before) % COUNT_EVERY:
        return {**sample, **{key: last[key] for key in ("descriptors", "tasks") if key in last}}
    sample["descriptors"] = observed.descriptors()
    if tasks:
        sample["tasks"] = observed.tasks()
    return sample


def _add(configuration: dict[str, Any], more: str) -> None:
    """Add tables in the form of a TOML file."""
    for name, table in tomllib.loads(more).items():
        configuration[name] = [*configuration.get(name, []), *table] if isinstance(table, list) else table


def _rest(observed: Gateway) -> Sample:
    return {
        "memory": observed.memory(),
        "descriptors": observed.descriptors(),
        "tasks": observed.tasks(),
        "cpu": observed.cpu(),
    }
