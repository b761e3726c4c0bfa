"""The goals of a run, and whether it met them."""

from dataclasses import dataclass
from statistics import mean

from .histogram import Histogram
from .run import Run, Sample

PER_STREAM = 40_000  # bytes of memory
ADDED = 0.25  # seconds of latency that the gateway may add
GROWTH = 0.02  # share of the memory in the second half of a soak: 25 bytes per stream with 200,000 streams in 125 MB
WARM = 0.5  # share of a soak in which its retained logs should have reached their peak
RATE = 0.99  # share of the requests per second that must be answered


@dataclass(frozen=True)
class Goal:
    """One line of the verdict."""

    what: str
    reach: str
    measured: str
    met: bool


def goals(run: Run) -> list[Goal]:
    """Return the verdict. No run may have a stream that went wrong; each preset has further goals."""
    failed = run.result["failed"]
    verdict = [Goal("streams that went wrong", "0", f"{failed} of {run.result['started']}", not failed)]
    match run.plan.name:
        case "open":
            verdict += _open(run)
        case "short":
            verdict += _short(run)
        case "soak":
            verdict += _soak(run)
    return verdict


def plateau(run: Run) -> list[Sample]:
    """Return the samples between the end of the ramp and the end of the run."""
    start = run.plan.ramp
    return [each for each in run.samples if start <= each["at"] <= start + run.plan.seconds] or run.samples[-1:]


def memory_per_stream(run: Run, sample: Sample) -> float:
    """Return how many bytes the gateway has grown per stream that is open at a sample."""
    return (sample["memory"] - run.before["memory"]) / max(1.0, sample["open"])


def _open(run: Run) -> list[Goal]:
    level, added = plateau(run), Histogram.of(run.result["latency"]).percentile(0.99)
    most = max(each["open"] for each in level)
    first, last = (memory_per_stream(run, level[place]) for place in (0, -1))
    return [
        Goal("streams open at the same time", f"{run.plan.open}", f"{most:.0f}", most >= run.plan.open),
        Goal("added latency of a token, p99", "under 250 ms", f"{added * 1000:.1f} ms", added < ADDED),
        Goal("memory per stream, when all have opened", "under 40 KB", f"{first / 1000:.1f} KB", first < PER_STREAM),
        Goal("memory per stream, at the end, with its log", "under 40 KB", f"{last / 1000:.1f} KB", last < PER_STREAM),
    ]


def _short(run: Run) -> list[Goal]:
    wanted = sum(1 for _ in run.plan.starts())
    first, last = plateau(run)[0], plateau(run)[-1]
    rate = (last["ended"] - first["ended"]) / max(1e-9, last["at"] - first["at"])
    return [
        Goal("requests begun", f"{wanted}", f"{run.result['started']}", run.result["started"] >= wanted),
        Goal("answers per second", f"{run.plan.rate:g}", f"{rate:.1f}", rate >= run.plan.rate * RATE),
    ]


def _soak(run: Run) -> list[Goal]:
    warm = [each for each in run.samples if each["ended"] >= run.plan.count * WARM] or run.samples[-1:]
    fifth = max(1, len(warm) // 5)
    early, late = (mean(each["memory"] for each in some) for some in (warm[:fifth], warm[-fifth:]))
    growth = late / early - 1 if early else 0.0
    ended, before, after = run.result["ended"], run.before, run.after
    return [
        Goal("streams", f"{run.plan.count}", f"{ended}", ended >= run.plan.count),
        Goal(
            "memory after half of them, and at the end",
            f"no growth ({GROWTH:.0%})",
            f"{early / 1e6:.1f} → {late / 1e6:.1f} MB ({growth:+.1%})",
            growth <= GROWTH,
        ),
        _same("descriptors at rest, before and after", before["descriptors"], after["descriptors"], run.plan.open + 8),
        _same("tasks at rest, before and after", before["tasks"], after["tasks"], 4),
    ]


def _same(what: str, before: float, after: float, allowed: int) -> Goal:
    return Goal(what, f"at most {allowed} more", f"{before:.0f} → {after:.0f}", after <= before + allowed)
