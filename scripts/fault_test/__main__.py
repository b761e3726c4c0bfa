"""`./scripts/faults`: drive the sixteen faults through a running gateway and print the table of the README."""

import argparse
import asyncio
import sys

from .faults import FAULTS, Bench, Fault, Missed, Pace
from .parts import gateway, provider


async def score(bench: Bench, fault: Fault) -> tuple[bool, str]:
    """Run one fault; return whether it passed, and its row."""
    try:
        found = await fault.run(bench, fault.name)
    except Missed as missed:
        return False, f"{fault.title} | **missed:** {missed} | | |"
    return True, f"{fault.title} | {found.got} | {found.primary} + {found.fallback} | {found.seconds:.1f} s |"


async def main(scale: float) -> int:
    """Run all at once, but the outage after the others: it takes the primary away."""
    pace = Pace(scale)
    async with provider() as primary, provider() as fallback, gateway(pace.config(primary, fallback)) as root:
        bench = Bench(root, primary, fallback, pace)
        alone = [fault for fault in FAULTS if fault.name == "outage"]
        beside = [fault for fault in FAULTS if fault not in alone]
        rows = dict(zip(beside, await asyncio.gather(*(score(bench, fault) for fault in beside)), strict=True))
        for fault in alone:
            rows[fault] = await score(bench, fault)
    print("| | fault of the primary | the caller gets | attempts: primary + fallback | after |")
    print("|---|---|---|---|---|")
    for number, fault in enumerate(FAULTS, 1):
        print(f"| {number} | {rows[fault][1]}")
    passed = sum(ok for ok, _ in rows.values())
    print(f"\n{passed} of {len(FAULTS)} pass.")
    return 0 if passed == len(FAULTS) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the slow faults' times; 1: as they are named")
    sys.exit(asyncio.run(main(parser.parse_args().scale)))
