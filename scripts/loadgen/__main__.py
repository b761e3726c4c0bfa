"""``scripts/load``: options in; a line a second; a verdict, a page and a picture at the end."""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from .goals import goals
from .page import KIND_HEADS, PROCESS_HEADS, kinds, process, summary, write
from .plan import KINDS, LONGEST, MOST_COUNT, MOST_OPEN, MOST_RATE, PRESETS, Plan
from .run import LoadError, Place, Run, Sample, run

Number = TypeVar("Number", int, float)
SPARE = 500  # descriptors of a process beside those of its streams


def main() -> int:
    """Run; return 0 if no stream went wrong and the preset's numbers were reached, 1 if not."""
    options = _parser().parse_args()
    plan = _plan(options)
    if problem := _descriptors(plan):
        print(f"load: {problem}", file=sys.stderr)
        return 2
    print(f"{plan.name}: {_says(plan)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        port = urlsplit(options.gateway or "").port or 0
        place = Place(Path(folder), port, options.upstream_port, options.pid)
        try:
            found = run(plan, place, _show)
        except (LoadError, RuntimeError) as failure:
            print(f"load: {failure}", file=sys.stderr)
            return 1
    return _report(found, options)


def _report(found: Run, options: argparse.Namespace) -> int:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(summary(found))
    verdict = goals(found)
    rows = [[each.what, each.reach, each.measured, "met" if each.met else "missed"] for each in verdict]
    for heads, lines in (
        (["what", "reach", "measured", ""], rows),
        (KIND_HEADS, kinds(found)),
        (PROCESS_HEADS, process(found)),
    ):
        print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for line in lines:
            print("| " + " | ".join(line) + " |")
    for complaint in found.result["complaints"]:
        print(complaint, file=sys.stderr)
    page, picture = write(found, options.report)
    print(f"\n{page} and {picture}")
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 0 if all(each.met for each in verdict) else 1


def _show(plan: Plan, now: Sample) -> None:
    """Show where the run is: a line that changes in a terminal, a line every ten seconds elsewhere."""
    line = (
        f"{now['at']:5.0f} s of {plan.ramp + plan.seconds:.0f}  open {now['open']:5.0f}  ended {now['ended']:6.0f}  "
        f"wrong {now['failed']:3.0f}  {now['rate']:6.0f} events/s  p99 {now['p99'] * 1000:6.1f} ms  "
        f"{now['memory'] / 1e6:6.1f} MB"
    )
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
    elif round(now["at"]) % 10 == 1:
        print(line, flush=True)


def _says(plan: Plan) -> str:
    what = f"{plan.open} streams at the same time" if plan.open else f"{plan.rate:g} requests a second"
    most = f", {plan.count} at most" if plan.count != MOST_COUNT else ""
    return f"{what}{most}; ramp {plan.ramp:g} s, then {plan.seconds:g} s; retention {plan.retention:g} s"


def _descriptors(plan: Plan) -> str:
    """Raise the limit as far as it goes (children inherit it); say what is wrong with it, or nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = 2 * plan.most_open + SPARE
    return f"{plan.most_open} streams take {needed} descriptors, and no more than {hard} are allowed (ulimit -Hn)" * (
        needed > hard
    )


def _plan(options: argparse.Namespace) -> Plan:
    plan = PRESETS[options.preset]
    names = ("count", "ramp", "seconds", "settle", "pace", "tokens", "unpaced_tokens", "slow_pace", "drain_timeout",
             "retention", "mix")  # fmt: skip
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.open is not None:
        given |= {"open": options.open, "rate": 0.0}
    elif options.rate is not None:
        given |= {"open": 0, "rate": options.rate}
    return replace(plan, **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="load",
        description="Drives many streams through a gateway on this machine and checks every id and byte of them.",
        epilog="Kinds of streams for --mix: " + "; ".join(f"{kind}: {does}" for kind, does in KINDS.items()) + ".",
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="mixed", help="what the other options change; without it: mixed")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--open", type=_number(int, 1, MOST_OPEN), metavar="N", help="streams at the same time")
    load.add_argument(
        "--rate", type=_number(float, 0.1, MOST_RATE), metavar="N", help="requests a second, answered or not"
    )
    add("--count", type=_number(int, 1, MOST_COUNT), metavar="N", help="streams at most")
    add(
        "--ramp",
        type=_number(float, 0, LONGEST),
        metavar="S",
        help="seconds until all are open",
    )
    add("--seconds", type=_number(float, 1, LONGEST), metavar="S", help="after the ramp, in which streams are begun")
    add("--settle", type=_number(float, 1, LONGEST), metavar="S", help="for the last streams to end")
    add("--pace", type=_number(int, 0, 1000), metavar="N", help="tokens a second of a paced stream; 0: all at once")
    add("--tokens", type=_number(int, 2, 100_000), metavar="N", help="of one paced stream")
    add("--unpaced-tokens", type=_number(int, 2, 100_000), metavar="N", help="of one unpaced stream")
    add("--slow-pace", type=_number(float, 100, 1e9), metavar="B", help="bytes a second of a slow reader")
    add("--drain-timeout", type=_number(float, 0.1, LONGEST), metavar="S", help="the gateway's, for the stalled")
    add("--retention", type=_number(float, 0, LONGEST), metavar="S", help="the gateway's")
    add("--mix", type=_mix, metavar="KIND=N,…", help="how many of each kind, such as fast=8,slow=1,cut=1")
    add("--gateway", type=_loopback, metavar="URL", help="a gateway that runs already, on this machine only")
    add("--upstream-port", type=_number(int, 0, 65535), default=0, metavar="N", help="where its upstream has to listen")
    add("--pid", type=_number(int, 0, 1 << 22), default=0, metavar="N", help="its process, for memory and descriptors")
    add("--report", type=Path, default=Path("report/load"), metavar="BASE", help="writes BASE.html and BASE.png")
    add("--json", type=Path, metavar="FILE", help="writes everything that was measured")
    return parser


def _number(kind: Callable[[str], Number], low: float, high: float) -> Callable[[str], Number]:
    def number(text: str) -> Number:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def _mix(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        kind, _, share = part.partition("=")
        if kind not in KINDS or not share.isdigit() or not int(share):
            raise argparse.ArgumentTypeError(f"{part!r} is not KIND=N with one of {', '.join(KINDS)}")
        found[kind] = int(share)
    return found


def _loopback(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "http" or url.hostname != "127.0.0.1" or not url.port:
        raise argparse.ArgumentTypeError(f"{text} is not http://127.0.0.1:PORT: only this machine is put under load")
    return text


if __name__ == "__main__":
    sys.exit(main())
