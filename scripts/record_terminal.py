"""Records the terminal of the README from a real run, as an animated SVG.

usage: scripts/record_terminal.py [FILE]

It starts a provider and a gateway with SQLite, asks by `sluiceway chat`, and kills the gateway (SIGKILL) in the middle
of the answer. The gateway is started again, and the chat goes on. What is shown is what the programs printed, and when.
Only pauses of more than a second are shortened. At the end the text is compared with what the model wrote.
"""

import html
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from lab import places
from lab.processes import ROOT, Child

FILE = ROOT / "docs" / "pictures" / "terminal.svg"
TEXT = (
    "A sluice gate holds back a river and lets through what the canal can carry. When the channel below is blocked, "
    "the gate closes and the water waits; nothing is spilled. When the channel is free again, it flows on from where "
    "it stood. A streaming gateway does the same with tokens: a log keeps them, and a reader that comes back goes on "
    "with the next one."
)
WIDTH, LONGEST_PAUSE, LAST_PAUSE = 84, 1.0, 5.0  # columns; seconds; seconds
ADVANCE = 8.45  # width of a character, in pixels
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
Piece = tuple[float, str, str]  # when (seconds from the start), the text, its class


class Recording:
    """What a terminal showed, and when."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def show(self, text: str, kind: str = "") -> None:
        """Note text that has just appeared."""
        self.pieces.append((time.monotonic(), text, kind))

    def command(self, text: str) -> None:
        """Note a command as somebody types it."""
        self.show("$ ", "prompt")
        self.show(f"{text}\n", "typed")


def tables(upstream: str, folder: Path) -> dict[str, Any]:
    """Return the gateway's configuration."""
    return {
        "store": {"kind": "sqlite", "path": str(folder / "streams.db"), "lease": 1.0},
        "upstreams": [{"name": "local", "base_url": f"{upstream}/v1"}],
        "models": [{"name": "small", "targets": ["local/small"]}],
    }


def record() -> list[Piece]:
    """Run it all; return what was shown. Exits if the answer is not whole."""
    shown = Recording()
    with tempfile.TemporaryDirectory() as name, places.provider(Path(name)) as model:
        script = json.dumps({"model": "small", "calls": [{"text": TEXT, "rate": 14}]}).encode()
        urllib.request.urlopen(f"{model.root}/_script", script).close()  # noqa: S310 - a loopback address
        shown.command("sluiceway serve &")
        with places.gateway(tables(model.root, Path(name)), Path(name)) as gateway:
            shown.command('sluiceway chat <<< "What does a sluice gate do?"')
            answer = chat(gateway, shown)
    if " ".join(answer.split()) != TEXT:
        sys.exit(f"error: the answer is not whole: {answer!r}")
    shown.command("# killed in the middle, and not a word is missing or told twice")
    return shown.pieces


def chat(gateway: Child, shown: Recording) -> str:
    """Ask by `sluiceway chat`, and kill the gateway meanwhile. Return the answer."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "server", "chat", "--url", gateway.root]
    talking = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, text=True)
    os.close(theirs)
    assert talking.stdin is not None
    talking.stdin.write("What does a sluice gate do?\n")
    talking.stdin.close()
    answer, again = "", threading.Thread(target=gateway.start)  # what the chat says meanwhile is shown at its time
    while select.select([ours], [], [], 60)[0]:
        try:
            text = os.read(ours, 4096).decode().replace("\r\n", "\n")
        except OSError:  # the chat has closed its end
            break
        notes = re.findall(r"\x1b\[2m\[.*?\]\x1b\[0m\n", text)
        for note in notes:
            text = text.replace(note, "")
        answer += text
        if text:
            shown.show(text)
        for note in notes:
            plain = re.sub(r"\x1b\[\d+m", "", note)
            shown.show(f"\n{plain}" if answer and not answer.endswith("\n") else plain, "note")
        if again.ident is None and len(answer) > len(TEXT) / 2.4:
            gateway.stop(signal.SIGKILL)
            shown.show("\n")
            shown.command("kill -9 %1; sluiceway serve &")
            again.start()
    talking.wait()
    again.join()
    return answer


def svg(pieces: list[Piece]) -> str:
    """Draw the pieces, each at its time. Without animation, as a reader may have asked for, all are there."""
    rows, when, before = wrapped(pieces), 0.0, pieces[0][0]
    times = []
    for at, _, _ in pieces:
        when += min(at - before, LONGEST_PAUSE)
        before = at
        times.append(when)
    total = when + LAST_PAUSE
    height = 20 * (max(row for row, *_ in rows) + 1) + 36
    size = f'viewBox="0 0 {WIDTH * ADVANCE + 32:.0f} {height}"'
    moving = f"animation:show linear infinite;animation-duration:{total:.2f}s"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}" font-size="14">',
        "<title>A gateway is killed in the middle of an answer; the chat goes on when it is back</title>",
        "<style>text{fill:#e5e7eb;white-space:pre}.prompt{fill:#4ade80}.typed{fill:#fff}.note{fill:#fbbf24}",
        f"@media (prefers-reduced-motion:no-preference){{text{{{moving}}}}}",
    ]
    for number, at in enumerate(times):
        share = 100 * at / total
        frames = f"0%,{share:.2f}%{{opacity:0}}{share + 0.01:.2f}%,100%{{opacity:1}}"
        lines.append(f"@keyframes t{number}{{{frames}}}.t{number}{{animation-name:t{number}}}")
    lines += ["</style>", f'<rect width="100%" height="{height}" rx="8" fill="#111827"/>']
    lines += [
        f'<text class="{f"{kind} " if kind else ""}t{number}" x="{16 + column * ADVANCE:.1f}" y="{34 + row * 20}"'
        f' textLength="{len(text) * ADVANCE:.1f}" xml:space="preserve">{html.escape(text)}</text>'
        for row, column, number, text, kind in rows
        if text.strip()
    ]
    return "\n".join([*lines, "</svg>", ""])


def wrapped(pieces: list[Piece]) -> list[tuple[int, int, int, str, str]]:
    """Place the pieces: row, column, the piece's number, its text and class. Lines break at words."""
    rows, row, column = [], 0, 0
    for number, (_, text, kind) in enumerate(pieces):
        for word in re.findall(r"\n|[^\s]+ ?| +", text):
            if word == "\n":
                row, column = row + 1, 0
                continue
            if column + len(word.rstrip()) > WIDTH:
                row, column = row + 1, 0
            rows.append((row, column, number, word, kind))
            column += len(word)
    return rows


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else FILE).write_text(svg(record()), encoding="utf-8")
