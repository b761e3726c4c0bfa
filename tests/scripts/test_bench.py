"""The benchmark loses no token itself, notices one that is lost, and ends in a table."""

import json
import subprocess
from pathlib import Path
from time import monotonic_ns

import pytest
from lab.expected import check
from lab.reader import LAST_CHUNK, WrongError
from lab.script import HEAD, script, stamped, word

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [ROOT / "scripts" / "bench", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)


def whole(model: str) -> bytes:
    told = script(model)
    return told.opening + b"".join(told.frames) + told.ending(with_usage=True)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1000, 100_000])
def test_an_answer_is_right_however_it_is_cut(size: int) -> None:
    raw = whole("short-16")
    parts = [(float(start), raw[start : start + size]) for start in range(0, len(raw), size)]
    answer = check(parts, script("short-16"))
    assert [text for _, text in answer.tokens] == [word(number) for number in range(16)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: told.opening + b"".join(told.frames[1:]) + told.ending(with_usage=False),
        lambda told: told.opening + b"".join(told.frames[:-1]) + told.ending(with_usage=False),
        lambda told: told.opening + b"".join((*told.frames, told.frames[-1])) + told.ending(with_usage=False),
        lambda told: told.opening + b"".join(reversed(told.frames)) + told.ending(with_usage=False),
        lambda told: told.opening + b"".join(told.frames) + told.done,
        lambda told: told.opening + b"".join(told.frames) + told.finish + b"0\r\n\r\n",
        lambda told: told.opening + b"".join(told.frames),
    ],
    ids=["first lost", "last lost", "one twice", "order", "no finish", "no [DONE]", "cut"],
)
def test_a_damaged_answer_has_no_figure(damage) -> None:
    told = script("short-16")
    with pytest.raises(WrongError):
        check([(0.0, damage(told))], told)


def test_latencies_are_from_the_stamp_to_the_part_that_completes_the_token() -> None:
    told = script("stamped-50-3")
    now = monotonic_ns()
    frames = [stamped(told.frames[0], now + number) for number in range(3)]
    parts = [
        (now / 1e9, told.opening),
        (now / 1e9 + 1, frames[0] + frames[1][:-40]),
        (now / 1e9 + 2, frames[1][-40:]),
        (now / 1e9 + 3, frames[2] + told.ending(with_usage=False)),
    ]
    assert check(parts, told).latencies() == pytest.approx([1, 2, 3], abs=1e-5)


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_quick_run_measures_every_row(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    bench = run("--quick", "--json", found)
    assert bench.returncode == 0, bench.stderr
    rows = json.loads(found.read_text())
    assert [row["name"] for row in rows] == [
        "paced", "flood", "short", "latency", "burst", "ttft", "idle", "cancel",
    ]  # fmt: skip
    assert all(set(row["samples"]) >= {"memory", "bare"} for row in rows)
    assert bench.stdout.count("\n| ") == len(rows)


CHUNK = b"%x\r\ndata: %b\n\n\r\n"
DIALECTS = {
    "responses": (
        '{"type":"response.output_text.delta","delta":"%s"}',
        '{"type":"response.completed"}',
        "[DONE]",
    ),
    "messages": (
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}',
        '{"type":"message_delta","delta":{"stop_reason":"end_turn"}}',
        '{"type":"message_stop"}',
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_in_another_dialect_is_checked_as_well(dialect: str) -> None:
    text, *ending = DIALECTS[dialect]
    told = script("short-16")
    events = [*(text % word(number) for number in range(16)), *ending]

    def answer(events: list[str]) -> bytes:
        return HEAD + b"".join(CHUNK % (len(event) + 8, event.encode()) for event in events) + LAST_CHUNK

    assert len(check([(0.0, answer(events))], told).tokens) == 16
    for damaged in (events[1:], [*events[:15], *events[16:]], [events[0], *events], events[:-2], events[:-1]):
        with pytest.raises(WrongError):
            check([(0.0, answer(damaged))], told)


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_quick_run_measures_the_dialects(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    bench = run("--quick", "--only", "responses,messages", "--json", found)
    assert bench.returncode == 0, bench.stderr
    rows = {row["name"]: row["samples"] for row in json.loads(found.read_text())}
    assert {name: set(samples) for name, samples in rows.items()} == {name: {"memory", name} for name in DIALECTS}


def test_an_unknown_row_is_named() -> None:
    bench = run("--only", "speed")
    assert bench.returncode == 2
    assert "no speed; there are paced, flood" in bench.stderr
