"""Run `scripts/load`: print a line per second, and at the end a verdict; write a page and a picture."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

from lab.options import most_descriptors, number
from lab.report import table

from .goals import goals
from .page import KIND_HEADS, PROCESS_HEADS, kinds, process, summary, write
from .plan import KINDS, LONGEST, MOST_COUNT, MOST_OPEN, MOST_RATE, PRESETS, Plan
from .run import Destination, LoadError, Run, Sample, run

SPARE = 500  # descriptors of a process besides those of its streams


def main(arguments: list[str] | None = None) -> int:
    """Run; return 0 if no stream went wrong and the goals of the preset were met, 1 if not, 2 if it cannot run."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.attacks and options.preset != "hostile":
        parser.error("--attacks is for --preset hostile")
    plan = _plan(options)
    if problem := _descriptors(plan):
        print(f"load: {problem}", file=sys.stderr)
        return 2
    print(f"{plan.name}: {_sentence(plan)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        port = urlsplit(options.gateway or "").port or 0
        destination = Destination(Path(folder), port, options.upstream_port, options.pid)
        try:
            measured = run(plan, destination, _show)
        except (LoadError, RuntimeError) as failure:
            print(f"load: {failure}", file=sys.stderr)
            return 1
    return _report(measured, options)


def _report(measured: Run, options: argparse.Namespace) -> int:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(summary(measured))
    verdict = goals(measured)
    rows = [[goal.what, goal.reach, goal.measured, "met" if goal.met else "missed"] for goal in verdict]
    attacks = [
        [name, ", ".join(f"{count} {how}" for how, count in told.items())] for name, told in measured.attacks.items()
    ]
    print(f"\n{table(['what', 'reach', 'measured', ''], rows)}")
    if attacks:
        print(f"\n{table(['attack', 'how it was answered'], attacks)}")
    print(f"\n{table(KIND_HEADS, kinds(measured))}\n\n{table(PROCESS_HEADS, process(measured))}")
    for complaint in measured.result["complaints"]:
        print(complaint, file=sys.stderr)
    if options.report:
        page, picture = write(measured, options.report)
        print(f"\n{page} and {picture}")
    if options.json:
        options.json.write_text(json.dumps(asdict(measured), indent=1) + "\n")
    return 0 if all(goal.met for goal in verdict) else 1


def _show(plan: Plan, now: Sample) -> None:
    """Show the progress: in a terminal a line that changes, elsewhere a line every ten seconds."""
    line = (
        f"{now['at']:5.0f} s of {plan.ramp + plan.seconds:.0f}  open {now['open']:5.0f}  ended {now['ended']:6.0f}  "
        f"wrong {now['failed']:3.0f}  {now['rate']:6.0f} events/s  p99 {now['p99'] * 1000:6.1f} ms  "
        f"{now['memory'] / 1e6:6.1f} MB"
    )
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
    elif round(now["at"]) % 10 == 1:
        print(line, flush=True)


def _sentence(plan: Plan) -> str:
    what = f"{plan.open} streams at the same time" if plan.open else f"{plan.rate:g} requests per second"
    most = f", {plan.count} at most" if plan.count != MOST_COUNT else ""
    return f"{what}{most}; ramp {plan.ramp:g} s, then {plan.seconds:g} s; retention {plan.retention:g} s"


def _descriptors(plan: Plan) -> str:
    """Raise the limit of descriptors, which children inherit. Return why it is too low, or an empty text."""
    hard = most_descriptors()
    needed = 2 * plan.most_open + SPARE
    return f"{plan.most_open} streams take {needed} descriptors, and no more than {hard} are allowed (ulimit -Hn)" * (
        needed > hard
    )


def _plan(options: argparse.Namespace) -> Plan:
    plan = PRESETS[options.preset]
    names = ("count", "ramp", "seconds", "settle", "pace", "tokens", "unpaced_tokens", "slow_pace", "drain_timeout",
             "retention", "mix", "attacks")  # fmt: skip
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.open is not None:
        changes |= {"open": options.open, "rate": 0.0}
    elif options.rate is not None:
        changes |= {"open": 0, "rate": options.rate}
    return replace(plan, **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="load",
        description="Drive many streams through a gateway on this machine and check every id and byte of them.",
        epilog="Kinds of streams for --mix: " + "; ".join(f"{kind}: {does}" for kind, does in KINDS.items()) + ".",
    )
    add = parser.add_argument
    add(
        "--preset",
        choices=PRESETS,
        default="mixed",
        help="the plan that the other options change; the default is mixed",
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--open", type=number(int, 1, MOST_OPEN), metavar="N", help="number of streams at the same time")
    load.add_argument(
        "--rate",
        type=number(float, 0.1, MOST_RATE),
        metavar="N",
        help="requests per second, whether earlier ones are answered or not",
    )
    add("--count", type=number(int, 1, MOST_COUNT), metavar="N", help="the most streams in all")
    add("--ramp", type=number(float, 0, LONGEST), metavar="S", help="seconds until all streams are open")
    add(
        "--seconds",
        type=number(float, 1, LONGEST),
        metavar="S",
        help="seconds after the ramp in which streams are begun",
    )
    add("--settle", type=number(float, 1, LONGEST), metavar="S", help="seconds for the last streams to end")
    add("--pace", type=number(int, 0, 1000), metavar="N", help="tokens per second of a paced stream; 0: all at once")
    add("--tokens", type=number(int, 2, 100_000), metavar="N", help="tokens of one paced stream")
    add("--unpaced-tokens", type=number(int, 2, 100_000), metavar="N", help="tokens of one unpaced stream")
    add("--slow-pace", type=number(float, 100, 1e9), metavar="B", help="bytes per second of a slow reader")
    add(
        "--drain-timeout",
        type=number(float, 0.1, LONGEST),
        metavar="S",
        help="drain timeout of the gateway, for stalled readers",
    )
    add("--retention", type=number(float, 0, LONGEST), metavar="S", help="retention of the gateway")
    add(
        "--attacks",
        type=number(float, 0.1, 100),
        metavar="N",
        help="attacks per second, for the preset hostile only",
    )
    add("--mix", type=_mix, metavar="KIND=N,…", help="shares of the kinds of streams, such as fast=8,slow=1,cut=1")
    add("--gateway", type=_loopback, metavar="URL", help="a gateway that runs already, on this machine only")
    add(
        "--upstream-port",
        type=number(int, 0, 65535),
        default=0,
        metavar="N",
        help="port on which the upstream of that gateway listens",
    )
    add(
        "--pid",
        type=number(int, 0, 1 << 22),
        default=0,
        metavar="N",
        help="process of that gateway, for memory and descriptors",
    )
    add("--report", type=Path, default=Path("report/load"), metavar="BASE", help="write BASE.html and BASE.png")
    add("--no-report", action="store_const", const=None, dest="report", help="write neither page nor picture")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser


def _mix(text: str) -> dict[str, int]:
    mix = {}
    for part in text.split(","):
        kind, _, share = part.partition("=")
        if kind not in KINDS or not share.isdigit() or not int(share):
            raise argparse.ArgumentTypeError(f"{part!r} is not KIND=N with one of {', '.join(KINDS)}")
        mix[kind] = int(share)
    return mix


def _loopback(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "http" or url.hostname != "127.0.0.1" or not url.port:
        raise argparse.ArgumentTypeError(f"{text} is not http://127.0.0.1:PORT: only this machine is put under load")
    return text


if __name__ == "__main__":
    sys.exit(main())
