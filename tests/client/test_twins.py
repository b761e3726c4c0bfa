"""The clients for the other library, and the sync ones, are what the generator makes of the one that is written."""

import generate_clients
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.openai.sse import Decoder as GatewayDecoder
from sluiceway.library import name
from sluiceway.sse import Decoder

PIECES = [
    b"data: a", b"data", b"data:b", b"data:  c", b"event: token", b"id: 7", b"id: x\0y", b"retry: 1500", b"retry: -1",
    b": hb", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", "\u2028é☃".encode(),
]  # fmt: skip


def test_they_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """`scripts/generate_clients.py --check` finds no difference."""
    assert generate_clients.main(check=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", generate_clients.twins(), ids=lambda path: "/".join(path.parts[-2:]))
def test_nothing_of_the_other_kind_is_left(path) -> None:
    """No generated file has a word of the other library, and no sync one a word of async code."""
    text = path.read_text().partition("Change that file.")[2]
    assert ("httpx2" in text) == (path.parent.name == "httpx2")
    if path.stem == "sync":
        assert not [word for word in ("async", "await", "Async", "aclose", "aread") if word in text]


@pytest.mark.parametrize(
    ("openai", "has_httpx2", "library"),
    [
        ("3.57.0", True, "httpx2"), ("2.54.0", True, "httpx"), ("2.54.0", False, "httpx"), ("1.0", True, "httpx"),
        ("4.0.0rc1", True, "httpx2"), (None, True, "httpx2"), (None, False, "httpx"),
    ],
)  # fmt: skip
def test_which_library(openai: str | None, has_httpx2: bool, library: str) -> None:
    """The SDK's major version decides; without an SDK the newer library, if it is there."""
    assert name(openai, has_httpx2=has_httpx2) == library


@given(st.lists(st.sampled_from(PIECES)), st.integers(1, 8))
def test_the_decoder_reads_what_the_gateways_own_reads(pieces: list[bytes], size: int) -> None:
    """Any mixture of lines gives the same events and the same reconnection time, however it is split."""
    text = b"".join([*pieces, b"\n\n"])
    ours, theirs = Decoder(), GatewayDecoder()
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    events = [tuple(event) for part in parts for event in ours.feed(part)]
    assert events == [tuple(event) for part in parts for event in theirs.feed(part)]
    assert ours.retry == theirs.retry
