"""The load generator notices every fault of an event, and its report is one page that needs no other file."""

import asyncio
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from time import monotonic_ns

import pytest
from gateway import in_process
from lab.expected import NOT_YET, Checked, answer
from lab.reader import LAST_CHUNK, WrongError
from lab.script import HEAD, script, stamped
from loadgen.__main__ import main
from loadgen.histogram import Histogram
from loadgen.plan import KINDS, PRESETS
from ports import free_port

LOAD = Path(__file__).parents[2] / "scripts" / "load"
ERROR = b'id: 6\ndata: {"error":{"message":"m","code":"upstream_cut"}}\n\n'
START = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Stream-Id: strm_1\r\n\r\n"


def load(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [LOAD, "--report", folder / "load", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def events(model: str) -> list[bytes]:
    """Give an answer's events as a gateway sends them."""
    told = script(model)
    frames = [told.opening.removeprefix(HEAD), *told.frames, told.finish]
    bodies = [frame.partition(b"\r\n")[2].removesuffix(b"\r\n") for frame in frames] + [b"data: [DONE]\n\n"]
    return [b"id: %d\n%b" % (seq, body) for seq, body in enumerate(bodies, 1)]


def feed(response: Checked, raw: bytes, size: int) -> None:
    for start in range(0, len(raw), size):
        response.take(raw[start : start + size], float(start))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1000, 100_000])
@pytest.mark.parametrize("together", [1, 5, 100])
def test_a_right_answer_is_right_however_it_is_cut(size: int, together: int) -> None:
    """A right answer is accepted in any parts, with one event in a chunk or several, and heartbeats between them."""
    told = events("short-16")
    told.insert(9, b": hb\n")
    raw = START + b"".join(chunk(b"".join(told[first : first + together])) for first in range(0, len(told), together))
    response = Checked(answer("short-16"))
    feed(response, raw + LAST_CHUNK, size)
    assert response.over
    assert response.whole
    assert response.stream_id == "strm_1"


@pytest.mark.parametrize("after", [0, 1, 10, 18])
def test_a_resumed_answer_begins_after_its_cursor(after: int) -> None:
    """A resumed answer begins exactly after the cursor: one event earlier is `repeated`, one later `lost`."""
    told = events("short-16")
    Checked(answer("short-16"), after).take(START + chunk(b"".join(told[after:])) + LAST_CHUNK, 0.0)
    if after:
        with pytest.raises(WrongError, match="repeated"):
            Checked(answer("short-16"), after).take(START + chunk(told[after - 1]), 0.0)
    if after + 1 < len(told):
        with pytest.raises(WrongError, match="lost"):
            Checked(answer("short-16"), after).take(START + chunk(told[after + 1]), 0.0)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda told: [*told[:5], *told[6:]], "lost"),
        (lambda told: [*told[:5], told[4], *told[5:]], "repeated"),
        (lambda told: [*told[:5], told[5].replace(b"t00004", b"t00003"), *told[6:]], "altered"),
        (lambda told: [*told[:5], told[5].replace(b'"index":0', b'"index": 0'), *told[6:]], "altered"),
        (lambda told: [*told[:5], told[5].partition(b"\n")[2], *told[6:]], "altered"),
        (lambda told: told[:-1], "cut"),
        (lambda told: [*told, told[-1]], "repeated"),
        (lambda told: [*told[:5], ERROR], "error upstream_cut"),
    ],
    ids=["lost", "repeated", "another text", "one byte", "no id", "cut", "DONE twice", "error"],
)  # fmt: skip
def test_a_wrong_answer_is_noticed(damage, kind: str) -> None:
    """Every fault of an event is noticed, and has its name."""
    raw = START + b"".join(map(chunk, damage(events("short-16")))) + LAST_CHUNK
    with pytest.raises(WrongError) as wrong:
        feed(Checked(answer("short-16")), raw, 50)
    assert wrong.value.kind == kind


def test_the_age_of_a_token_is_read_from_its_stamp() -> None:
    """The time of sending is read from a stamp. A stamp that is none is an altered event."""
    told, frame = answer("stamped-1-3"), script("stamped-1-3").frames[0]
    now = monotonic_ns()
    event = b"id: 2\n" + stamped(frame, now).partition(b"\r\n")[2].removesuffix(b"\n\n\r\n")
    assert told.check(2, event) == pytest.approx(now / 1e9)
    assert told.check(1, events("stamped-1-3")[0].removesuffix(b"\n\n")) == NOT_YET
    with pytest.raises(WrongError, match="altered"):
        told.check(2, event.replace(b"%018d" % now, b"x" * 18))


def test_percentiles_are_right_to_a_fiftieth() -> None:
    """Percentiles are right over five orders of magnitude."""
    histogram = Histogram()
    for number in range(1, 100_001):
        histogram.add(number / 1e4)
    for share in (0.01, 0.5, 0.99):
        assert histogram.percentile(share) == pytest.approx(share * 10, rel=0.02)
    assert Histogram.of(histogram.plain()).curve() == histogram.curve()


def test_the_presets_are_the_numbers_to_reach() -> None:
    """The presets: 9,000 open streams for 60 s, one token per second; 200 requests/s for 60 s; 200,000 short ones."""
    opened, short, soak = (PRESETS[name] for name in ("open", "short", "soak"))
    assert (opened.open, opened.pace, opened.seconds) == (9000, 1, 60)
    assert opened.tokens >= opened.ramp + opened.seconds, "all are open until the run is over"
    assert len(list(opened.starts())) == 9000
    assert (short.rate, short.tokens, short.seconds) == (200, 16, 60)
    assert len(list(short.starts())) == 200 * 60 + 200 * short.ramp / 2
    assert (soak.count, soak.tokens) == (200_000, 16)
    assert soak.retention < 60, "ended logs are gone long before the end"


class References(HTMLParser):
    """Everything in a page that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.found += [
            value
            for name, value in attrs
            if name in ("src", "href", "xlink:href", "data") and not value.startswith("#")
        ]


def test_a_mixed_run_ends_in_a_report(tmp_path: Path) -> None:
    """Through a real gateway every kind of stream has its right ending. Page and picture hold the measurements."""
    ran = load(tmp_path, "--open", "30", "--ramp", "1", "--seconds", "4", "--tokens", "30", "--drain-timeout", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = dict(re.findall(r"^\| (\w+) \| .*? \| \d+ \| (.*?) \|", ran.stdout, re.MULTILINE))
    assert set(rows) == set(KINDS)
    assert all(re.match(r"\d+ (whole|left)$|\d+ left; upstream told after", came) for came in rows.values()), rows
    resumed = dict(re.findall(r"^\| (\w+) \| .*? \| \d+ \| .*? \| (\d+) \|", ran.stdout, re.MULTILINE))
    assert int(resumed["stalled"]) > 0, "the gateway gave the stalled clients up, and they came back"
    assert int(resumed["resumes"]) > 0
    page = (tmp_path / "load.html").read_text()
    references = References()
    references.feed(page)
    assert references.found == [], "the page needs nothing but itself"
    assert not references.tags & {"script", "img", "link", "iframe"}
    assert "url(http" not in page
    for text in ("Added latency", "Time to first token", "Events a second", "resident memory", "light-dark("):
        assert text in page
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("preset", "smaller"),
    [
        ("open", ["--open", "100", "--ramp", "2", "--seconds", "3", "--tokens", "5"]),
        ("short", ["--rate", "50", "--seconds", "2"]),
        ("soak", ["--count", "1500", "--retention", "1"]),
    ],
)
def test_a_preset_gives_its_verdict(tmp_path: Path, preset: str, smaller: list[str]) -> None:
    """A small run of each preset has no failure, and measures every goal."""
    ran = load(tmp_path, "--preset", preset, *smaller, "--no-report")
    verdict = re.findall(r"^\| ([a-z0-9 ,]+) \| .* \| (met|missed) \|$", ran.stdout, re.MULTILINE)
    assert ("streams that went wrong", "met") in verdict, ran.stdout + ran.stderr
    wanted = {
        "open": ["added latency of a token", "memory per stream"],
        "short": ["requests begun", "answers per second"],
        "soak": ["memory after half of them", "descriptors at rest", "tasks at rest"],
    }
    assert all(any(what.startswith(start) for what, _ in verdict) for start in wanted[preset]), ran.stdout
    # Whether so small a run meets them says nothing of the gateway, but the exit status says what the table says.
    assert ran.returncode == int(any(met == "missed" for _, met in verdict))


def test_a_hostile_run_leaves_the_victims_whole(tmp_path: Path) -> None:
    """Beside attacks of another owner and its upstream each stream is whole, and each attack is counted."""
    smaller = ["--open", "8", "--ramp", "1", "--seconds", "10", "--tokens", "60"]
    ran = load(tmp_path, "--preset", "hostile", *smaller, "--json", str(tmp_path / "load.json"))
    verdict = dict(re.findall(r"^\| ([a-z0-9 ,']+) \| .* \| (met|missed) \|$", ran.stdout, re.MULTILINE))
    assert verdict["streams that went wrong"] == "met", ran.stdout + ran.stderr
    assert verdict["attacks that got another's answer or key"] == "met", ran.stdout
    assert {"added latency of a token, p99", "memory at the start, in the middle, at the end"} <= verdict.keys()
    attacks = json.loads((tmp_path / "load.json").read_text())["attacks"]
    assert sum(sum(answers.values()) for answers in attacks.values()) > 10
    assert attacks["upstream: plain"]  # what it got depends on how it asked, which is drawn
    assert "| upstream: plain | " in ran.stdout


def test_ctrl_c_reports_what_was_measured(tmp_path: Path) -> None:
    """An interrupted run ends within seconds, with a page that says so, and leaves no process behind."""
    command = [
        LOAD,
        "--report",
        tmp_path / "load",
        "--open",
        "10",
        "--ramp",
        "0",
        "--seconds",
        "600",
        "--mix",
        "fast=1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert "open    10" in lines[1], lines
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert "streams that went wrong | 0 | 0 of" in said
    assert "Ended early" in (tmp_path / "load.html").read_text()


def test_in_a_terminal_one_line_is_kept_up_to_date() -> None:
    """In a terminal the progress line is rewritten every second, and the verdict begins on a new line."""
    ours, theirs = pty.openpty()
    command = [LOAD, "--no-report", "--open", "5", "--ramp", "0", "--seconds", "1", "--tokens", "40"]
    with subprocess.Popen([*command, "--mix", "fast=1"], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # EIO: the other end has closed
            while data := os.read(ours, 65536):
                said += data
        assert process.wait(60) == 0
    os.close(ours)
    progress, _, verdict = said.partition(b"\x1b[K\r\n")
    assert progress.count(b"\r    ") >= 2, said
    assert b"open     5" in progress
    assert b"went wrong" in verdict


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gateway", "http://192.0.2.1:8080"],
        ["--gateway", "http://example.org"],
        ["--gateway", "https://127.0.0.1:1"],
        ["--open", "20001"],
        ["--rate", "5001"],
        ["--seconds", "3601"],
        ["--count", "1000001"],
        ["--mix", "fast=0"],
        ["--mix", "sloth=1"],
        ["--open", "1", "--rate", "1"],
    ],
)
def test_what_is_out_of_bounds_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """With another machine, a number out of bounds or an unknown kind nothing is started."""
    with pytest.raises(SystemExit) as ended:
        main(["--report", str(tmp_path / "load"), *arguments])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_streams_than_descriptors_are_refused(tmp_path: Path) -> None:
    """Too few descriptors are reported in one sentence before anything is started."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = ["prlimit", "--nofile=1024:1024", LOAD, "--report", tmp_path / "load", "--open", "300"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert hard > 1024
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "300 streams take 1100 descriptors, and no more than 1024 are allowed" in ran.stderr


async def test_a_gateway_that_runs_already_can_be_driven() -> None:
    """A gateway that runs already is put under load: its upstream is the generator's own, on the given port."""
    port = free_port()
    async with in_process(f"http://127.0.0.1:{port}/v1") as gateway:
        command = [sys.executable, "-m", "loadgen", "--gateway", gateway.root, "--upstream-port", str(port), "--open"]
        command += ["5", "--ramp", "0", "--seconds", "1", "--tokens", "10", "--mix", "fast=1", "--no-report"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=LOAD.parent, stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": f"{LOAD.parent}:{LOAD.parent.parent}", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said
    assert b"whole" in said
