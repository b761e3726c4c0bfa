"""The report: one HTML page without any other file, and its plots as a picture."""

from html import escape
from pathlib import Path

from lab.report import html_table

from .goals import goals
from .histogram import Histogram
from .plan import KINDS
from .run import Run

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
       color: light-dark(#222, #ddd); background: light-dark(#fff, #16181c); }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid light-dark(#ddd, #3a3d44); }
.missed { color: light-dark(#b00020, #ff8a80); font-weight: 600; }
svg { width: 100%; height: auto; }
"""


def write(run: Run, base: Path) -> tuple[Path, Path]:
    """Write BASE.html and BASE.png; return their paths."""
    from .plots import png  # noqa: PLC0415 - matplotlib takes a second to import, and is needed only to draw

    page, picture = base.with_name(base.name + ".html"), base.with_name(base.name + ".png")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html(run), encoding="utf-8")
    png(run, picture)
    return page, picture


def html(run: Run) -> str:
    """Return the page."""
    from .plots import svg  # noqa: PLC0415 - as above

    verdict = [[each.what, each.reach, each.measured, "met" if each.met else "missed"] for each in goals(run)]
    early = "<p><strong>Ended early</strong>: this is what had been measured.</p>" if run.result["interrupted"] else ""
    words = "".join(f"<li><code>{escape(each)}</code></li>" for each in run.result["complaints"])
    complaints = f"<h2>The first complaints</h2><ul>{words}</ul>" if words else ""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Load: {escape(run.plan.name)}</title>'
        f"<style>{STYLE}</style><h1>Load: {escape(run.plan.name)}</h1><p>{escape(summary(run))}</p>{early}"
        f"{html_table(['what', 'reach', 'measured', ''], verdict)}{svg(run)}"
        f"<h2>What each kind of stream came to</h2>{html_table(KIND_HEADS, kinds(run))}"
        f"<h2>The gateway's process</h2>{html_table(PROCESS_HEADS, process(run))}{complaints}</html>\n"
    )


def summary(run: Run) -> str:
    """Return what was done, in one or two sentences."""
    result, latency, ttft = run.result, Histogram.of(run.result["latency"]), Histogram.of(run.result["ttft"])
    sentences = (
        f"{result['started']} streams in {result['seconds']:.1f} s, {result['tokens']} events and "
        f"{result['bytes'] / 1e6:.1f} MB received, each id and byte checked. Others kept {run.others:.2f} cores busy. "
    )
    for name, found in (("Added latency", latency), ("Time to first token", ttft)):
        if found.total:
            p50, p99, most = (found.percentile(0.5), found.percentile(0.99), found.largest())
            sentences += f"{name}: p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.1f} ms, largest {most * 1000:.0f} ms. "
    return sentences.strip()


KIND_HEADS = ["kind", "what it does", "streams", "came to", "resumed", "seconds, p50", "p99"]


def kinds(run: Run) -> list[list[str]]:
    """Return a row for each kind of stream."""
    rows = []
    for kind, does in KINDS.items():
        if not (outcomes := run.result["outcomes"].get(kind)):
            continue
        took = Histogram.of(run.result["durations"].get(kind, {}))
        outcome = ", ".join(f"{count} {way}" for way, count in outcomes.items() if count)
        if kind == "leaves" and run.result["told"]:
            outcome += f"; upstream told after {Histogram.of(run.result['told']).percentile(0.99) * 1000:.1f} ms (p99)"
        resumed = str(run.result["resumed"].get(kind, 0))
        row = [kind, does, str(sum(outcomes.values())), outcome, resumed]
        rows.append([*row, f"{took.percentile(0.5):.2f}", f"{took.percentile(0.99):.2f}"])
    return rows


PROCESS_HEADS = ["when", "streams ended", "open", "resident MB", "descriptors", "tasks", "CPU s"]


def process(run: Run) -> list[list[str]]:
    """Return a row for the gateway at rest, at several points under load, and at rest again."""
    points = [("at rest, before", run.before)]
    for share in (0.05, 0.25, 0.5, 0.75, 1.0):
        if run.samples:
            at = run.samples[min(len(run.samples) - 1, int(share * len(run.samples)))]
            points.append((f"{at['at']:.0f} s", at))
    points.append(("at rest, after", run.after))
    return [
        [
            when,
            f"{each['ended']:.0f}" if "ended" in each else "",
            f"{each['open']:.0f}" if "open" in each else "",
            f"{each['memory'] / 1e6:.1f}",
            f"{each.get('descriptors', 0):.0f}",
            f"{each['tasks']:.0f}" if each.get("tasks") else "",
            f"{each['cpu']:.1f}",
        ]
        for when, each in points
    ]
