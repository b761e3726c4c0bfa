"""Run `scripts/bench` and print its table."""

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType

from lab.options import most_descriptors, some_of

from .relays import GATEWAYS, STORES, Running, missing
from .report import plain, verdict
from .run import Outcome, run
from .scenarios import ROWS, SCENARIOS, Scenario
from .work import BenchError

LIMIT = 900  # seconds; a run that hangs is ended then
RELAYS = ("nginx", "gateway", "bare")


def main() -> int:
    """Run the chosen rows. Return 0 if every stream of every row was whole; the figures do not matter."""
    options = _options()
    _bound()
    present = {name for name in options.relays if not missing(name)}
    outcomes: list[Outcome] = []
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, Running(Path(folder) / "quick") as shared:
            for name in options.only:
                row = _with_store(SCENARIOS[name], options.store)
                if why := missing(row.subject):
                    print(f"{name}: not run, {why}", file=sys.stderr)
                    continue
                taking_part = [each for each in row.contestants if ("gateway" if each in GATEWAYS else each) in present]
                rounds = options.rounds or (1 if options.quick else row.rounds)
                if options.quick:  # its figures mean nothing, so rows need no processes of their own
                    outcomes.append(run(row, taking_part, rounds, shared, quick=True))
                    continue
                with Running(Path(folder) / name) as own:
                    outcomes.append(run(row, taking_part, rounds, own, quick=False))
    except (BenchError, RuntimeError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(verdict(outcomes))
    if options.json:
        options.json.write_text(json.dumps([plain(outcome) for outcome in outcomes], indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the gateway beside nginx on the same work.")
    parser.add_argument(
        "--only",
        type=some_of(SCENARIOS),
        default=[row.name for row in ROWS],
        metavar="ROW,...",
        help=f"some of {', '.join(SCENARIOS)}; the default is the first {len(ROWS)}",
    )
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="measurements of each relay in each row")
    parser.add_argument("--quick", action="store_true", help="one round of little work, whose figures mean nothing")
    parser.add_argument(
        "--store", choices=STORES, default="memory", help="store of the gateway in the rows that name none"
    )
    parser.add_argument(
        "--relays",
        type=some_of(RELAYS),
        default=list(RELAYS),
        metavar="NAME,...",
        help=f"some of {', '.join(RELAYS)}; the default is all",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args()


def _with_store(row: Scenario, store: str) -> Scenario:
    """Return the row with this store of the gateway, unless it names its own."""
    return replace(row, subject=store) if row in ROWS else row


def _bound() -> None:
    """Allow descriptors for a thousand streams. SIGTERM and the time limit raise, so that every `finally` runs."""
    most_descriptors()

    def stop(number: int, _: FrameType | None) -> None:
        if number == signal.SIGALRM:
            raise RuntimeError(f"it took longer than {LIMIT} seconds")
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, stop)
    signal.alarm(LIMIT)


if __name__ == "__main__":
    sys.exit(main())
