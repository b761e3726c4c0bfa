"""The outcome as a Markdown table, and as JSON."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from .run import Outcome
from .scenarios import Sample

HEAD = "| what | reach | nginx | gateway | ratio (min..max) | bare aiohttp relay, nothing parsed | verdict |"


def table(outcomes: Iterable[Outcome]) -> str:
    """Write one row for each outcome."""
    return "\n".join([HEAD, "|---|---|---|---|---|---|---|", *(_row(outcome) for outcome in outcomes)])


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return everything that was measured, for machines."""
    return {
        "name": outcome.scenario.name,
        "what": outcome.scenario.what,
        "unit": outcome.scenario.unit,
        "reach": outcome.scenario.reach(),
        "met": outcome.met(),
        "ratios": outcome.ratios(),
        "samples": outcome.samples,
    }


def _row(outcome: Outcome) -> str:
    row = outcome.scenario
    verdict = {True: "met", False: "missed", None: "—"}[outcome.met()]
    columns = [
        row.what,
        row.reach(),
        _figures(outcome.typical("nginx"), row.unit),
        _figures(outcome.typical(row.subject), row.unit),
        _ratio(outcome),
        _figures(outcome.typical("bare"), row.unit),
        verdict,
    ]
    return f"| {' | '.join(columns)} |"


def _figures(sample: Sample, unit: str) -> str:
    return f"{' / '.join(_number(figure) for figure in sample)} {unit}" if sample else "—"


def _ratio(outcome: Outcome) -> str:
    ratios = outcome.ratios()
    if not ratios:
        return "—"
    compared = "" if outcome.scenario.baseline == "nginx" else f" x {outcome.scenario.baseline}"
    return f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}){compared}"


def _number(figure: float) -> str:
    """Write three digits that mean something, without an exponent."""
    return f"{figure:.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
