"""The outcomes as a Markdown table, and as JSON."""

import os
from collections.abc import Iterable
from statistics import median
from typing import Any

from lab.report import table

from .run import QUIET, Outcome
from .scenarios import Sample

HEADS = ("what", "reach", "nginx", "gateway", "ratio (min..max)", "bare aiohttp relay, nothing parsed", "verdict")


def verdict(outcomes: Iterable[Outcome]) -> str:
    """Write one row per outcome, and below them how much of the machine the benchmark had."""
    outcomes = list(outcomes)
    others = [cores for outcome in outcomes for cores in outcome.others]
    quiet = sum(cores < QUIET for cores in others)
    return table(HEADS, map(_row, outcomes)) + (
        f"\n\nMedians of the rounds that had the machine for themselves (others below {QUIET} cores), "
        f"{quiet} of {len(others)}; of all rounds in a row that had none. "
        f"Others kept up to {max(others, default=0):.2f} of {os.cpu_count()} cores busy."
    )


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return everything that was measured, for JSON."""
    return {
        "name": outcome.scenario.name,
        "what": outcome.scenario.what,
        "unit": outcome.scenario.unit,
        "reach": outcome.scenario.reach(),
        "met": outcome.met(),
        "ratios": outcome.ratios(),
        "samples": outcome.samples,
        "others": outcome.others,
    }


def _row(outcome: Outcome) -> list[str]:
    row = outcome.scenario
    verdict = {True: "met", False: "missed", None: "—"}[outcome.met()]
    return [
        row.what,
        row.reach(),
        _figures(outcome.typical("nginx"), row.unit),
        _figures(outcome.typical(row.subject), row.unit),
        _ratio(outcome),
        _figures(outcome.typical("bare"), row.unit),
        verdict,
    ]


def _figures(sample: Sample, unit: str) -> str:
    return f"{' / '.join(_number(figure) for figure in sample)} {unit}" if sample else "—"


def _ratio(outcome: Outcome) -> str:
    ratios = outcome.ratios()
    if not ratios:
        return "—"
    compared = "" if outcome.scenario.baseline == "nginx" else f" x {outcome.scenario.baseline}"
    return f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}){compared}"


def _number(figure: float) -> str:
    """Write a number with three significant digits, without an exponent."""
    return f"{figure:.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
