"""The plots of a run, as one figure: for a page that is light or dark, and for a file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .histogram import Histogram
from .plan import KINDS
from .run import Run

INK = "#010203"  # the page replaces it by the colour of its text
SIZE = (12.0, 11.0)  # inches
UNSAID = ("Creator", "Date", "Format", "Type")
GOOD = ("whole", "left")
COLOURS = ("#4c8dd6", "#e08a2e", "#3f9d6b", "#c94f4f", "#8e6bbf", "#b59a3a")


def svg(run: Run) -> str:
    """Draw the plots as an inline SVG that takes the page's colour."""
    drawn = io.StringIO()
    with mpl.rc_context({**_ink(INK), "svg.fonttype": "none", "svg.hashsalt": "load"}):
        _figure(run).savefig(drawn, format="svg", transparent=True, metadata=dict.fromkeys(UNSAID))
    _, _, picture = drawn.getvalue().partition("<svg")
    return "<svg" + picture.replace(INK, "currentColor")


def png(run: Run, file: Path) -> None:
    """Draw the plots into a file."""
    with mpl.rc_context(_ink("#222222")):
        _figure(run).savefig(file, format="png", dpi=110, facecolor="white")


def _ink(colour: str) -> dict[Any, Any]:  # matplotlib's keys are a type of hundreds of literals
    keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "legend.labelcolor")
    return dict.fromkeys(keys, colour)


def _figure(run: Run) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    plots: list[Callable[[Run, Axes], None]] = [_latency, _ttft, _tokens, _latency_over_time, _memory, _faults]
    for draw, axes in zip(plots, figure.subplots(3, 2).flat, strict=True):
        draw(run, axes)
        axes.spines[["top"]].set_visible(False)
    return figure


def _latency(run: Run, axes: Axes) -> None:
    _distribution(
        axes,
        {"tokens": Histogram.of(run.result["latency"])},
        "Added latency: from the upstream to the client",
    )


def _ttft(run: Run, axes: Axes) -> None:
    _distribution(axes, {"streams": Histogram.of(run.result["ttft"])}, "Time to first token")


def _distribution(axes: Axes, found: dict[str, Histogram], title: str) -> None:
    """Draw the share of durations that took longer, on a logarithmic scale, which shows the tail."""
    axes.set_title(title)
    for (name, histogram), colour in zip(found.items(), COLOURS, strict=False):
        points = [(seconds * 1000, share) for seconds, share in histogram.curve() if share > 0]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=f"{histogram.total} {name}")
            for share, side in ((0.5, "left"), (0.99, "right")):
                at = histogram.percentile(share) * 1000
                text = f"  p{share * 100:g} {at:.3g} ms  "
                axes.annotate(text, (at, 1 - share), ha=side, va="center", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share that took longer")
    if axes.lines:
        axes.legend(frameon=False)
    else:
        _nothing(axes)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing of the kind in this run", transform=axes.transAxes, ha="center")


def _tokens(run: Run, axes: Axes) -> None:
    axes.set_title("Events a second, and open streams")
    at = [each["at"] for each in run.samples]
    axes.plot(at, [each["rate"] for each in run.samples], color=COLOURS[0], label="events/s")
    _second(axes, at, [each["open"] for each in run.samples], "open streams")


def _second(axes: Axes, at: list[float], values: list[float], label: str) -> None:
    """Draw another line, on a second scale."""
    other = axes.twinx()
    other.plot(at, values, color=COLOURS[1], label=label)
    other.set_ylim(bottom=0)
    other.spines[["top"]].set_visible(False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.legend(handles=[*axes.lines, *other.lines], frameon=False, loc="lower center")


def _latency_over_time(run: Run, axes: Axes) -> None:
    axes.set_title("Added latency over time")
    timed = [each for each in run.samples if each["p99"]]
    for name, colour in (("p50", COLOURS[0]), ("p99", COLOURS[3])):
        axes.plot([each["at"] for each in timed], [each[name] * 1000 for each in timed], color=colour, label=name)
    axes.set(xlabel="s", ylabel="ms")
    if timed:
        axes.set_yscale("log")
        axes.legend(frameon=False)
    else:
        _nothing(axes)


def _memory(run: Run, axes: Axes) -> None:
    axes.set_title("The gateway: resident memory, and descriptors")
    at = [each["at"] for each in run.samples]
    axes.plot(at, [each["memory"] / 1e6 for each in run.samples], color=COLOURS[2], label="MB")
    _second(axes, at, [each.get("descriptors", 0) for each in run.samples], "descriptors")


def _faults(run: Run, axes: Axes) -> None:
    """Draw how the streams of each kind ended: the share of each outcome in its own colour."""
    axes.set_title("What each kind of stream came to")
    kinds = [kind for kind in KINDS if run.result["outcomes"].get(kind)]
    ways = [*GOOD, *sorted({way for kind in kinds for way in run.result["outcomes"][kind]}.difference(GOOD))]
    left = dict.fromkeys(kinds, 0.0)
    for way, colour in zip(ways, (COLOURS[2], *COLOURS[:2], *COLOURS[3:]) * 3, strict=False):
        shares = [run.result["outcomes"][kind].get(way, 0) / sum(run.result["outcomes"][kind].values())
                  for kind in kinds]  # fmt: skip
        axes.barh(kinds, shares, left=[left[kind] for kind in kinds], color=colour, label=way)
        left = {kind: left[kind] + share for kind, share in zip(kinds, shares, strict=True)}
    for kind in kinds:
        took, resumed = Histogram.of(run.result["durations"].get(kind, {})), run.result["resumed"].get(kind, 0)
        label = f"  {took.total}, {took.percentile(0.5):.2f} s" + f", resumed {resumed} times" * bool(resumed)
        axes.annotate(label, (0, kind), va="center", fontsize=8, color="white")
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
