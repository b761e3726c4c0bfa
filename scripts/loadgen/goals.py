"""The goals of a run, and whether it met them."""

from dataclasses import dataclass
from statistics import mean, median

from . import hostile
from .histogram import Histogram
from .run import Run, Sample

PER_STREAM = 40_000  # bytes of memory
ADDED = 0.25  # seconds of latency that the gateway may add
GROWTH = 0.02  # share of the memory in the second half of a soak: 25 bytes per stream with 200,000 streams in 125 MB
WARM = 0.5  # share of a soak in which its retained logs should have reached their peak
DISTURBED = 0.05  # seconds of latency that an attack may add to the tokens of other owners
SWINGS = 0.1  # share of the memory by which the ends of large bodies make it swing
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
        case "hostile":
            verdict += _hostile(run)
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


def _hostile(run: Run) -> list[Goal]:
    wrong = {name: told for name, told in run.attacks.items() if told.keys() & {"LEAKED", "WRONG"}}
    count = sum(sum(told.values()) for told in run.attacks.values())
    added, first = (Histogram.of(run.result[name]).percentile(0.99) for name in ("latency", "ttft"))
    level = plateau(run)
    third = max(1, len(level) // 3)
    start, middle, end = (median(each["memory"] for each in some) for some in (
        level[:third], level[third : 2 * third] or level, level[-third:]))  # fmt: skip
    return [
        Goal("kinds of attacks made", f"{len(hostile.ATTACKS)}", f"{len(run.attacks)}, {count} attacks",
             len(run.attacks) == len(hostile.ATTACKS)),
        Goal("attacks that got another's answer or key", "0", f"{len(wrong)} {', '.join(wrong)}".strip(), not wrong),
        Goal("added latency of a token, p99", "under 50 ms", f"{added * 1000:.1f} ms", added < DISTURBED),
        Goal("time to the first token, p99", "under 250 ms", f"{first * 1000:.1f} ms", first < ADDED),
        Goal("memory at the start, in the middle, at the end", f"no growth ({SWINGS:.0%})",
             f"{start / 1e6:.1f} → {middle / 1e6:.1f} → {end / 1e6:.1f} MB", end <= middle * (1 + SWINGS)),
        _same("descriptors at rest, before and after", run.before["descriptors"], run.after["descriptors"],
              run.plan.open + 8),
    ]  # fmt: skip


def _same(what: str, before: float, after: float, allowed: int) -> Goal:
    return Goal(what, f"at most {allowed} more", f"{before:.0f} → {after:.0f}", after <= before + allowed)
