"""Drive sixteen faults of a primary provider through a running gateway, and print what the caller gets."""

import argparse
import asyncio
import sys

from lab.places import own_gateway
from lab.provider import Provider
from lab.report import table

from .faults import FAULTS, Fault, Installation, Pace, UnexpectedOutcome

# A first token after 20 s is within the default limit of 30 s, so it is waited for. But that fault allows 15 s.
MISSED_WITH_DEFAULTS = frozenset({"slow"})


async def score(installation: Installation, fault: Fault) -> tuple[bool, list[str]]:
    """Run one fault; return whether it passed, and its row without the number."""
    try:
        outcome = await fault.run(installation, fault.name)
    except UnexpectedOutcome as unexpected:
        return False, [fault.title, f"**missed:** {unexpected}", "", ""]
    attempts = f"{outcome.primary} + {outcome.fallback}"
    return True, [fault.title, outcome.words, attempts, f"{outcome.seconds:.1f} s"]


async def main(pace: Pace) -> int:
    """Run all faults at once, and then the outage, in which the primary is down for all. Return the exit status."""
    async with Provider() as primary, Provider() as fallback, own_gateway(pace.tables(primary, fallback)) as root:
        installation = Installation(root, primary, fallback, pace)
        alone = [fault for fault in FAULTS if fault.name == "outage"]
        beside = [fault for fault in FAULTS if fault not in alone]
        rows = dict(zip(beside, await asyncio.gather(*(score(installation, fault) for fault in beside)), strict=True))
        for fault in alone:
            rows[fault] = await score(installation, fault)
    heads = ("", "fault of the primary", "the caller gets", "attempts: primary + fallback", "after")
    print(table(heads, ([number, *rows[fault][1]] for number, fault in enumerate(FAULTS, 1))))
    missed = {fault.name for fault in FAULTS if not rows[fault][0]}
    expected = MISSED_WITH_DEFAULTS if pace.defaults else frozenset()
    print(f"\n{len(FAULTS) - len(missed)} of {len(FAULTS)} pass, {len(FAULTS) - len(expected)} must.")
    return 0 if missed == expected else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--scale", type=float, default=1.0, help="factor for the times of slow faults, and for 10 s")
    times.add_argument(
        "--defaults",
        action="store_true",
        help="leave the gateway its default limits instead of 10 s; the slow first token then misses its 15 s",
    )
    options = parser.parse_args()
    sys.exit(asyncio.run(main(Pace(options.scale, options.defaults))))
