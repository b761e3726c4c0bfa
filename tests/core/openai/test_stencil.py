"""The stencil: a frame that fits it means the same as if it were parsed."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.core.openai.intake import Intake
from server.core.openai.stencil import MAX_PATTERNS, Stencil
from server.core.openai.transcript import Transcript

HEAD = b'{"id":"c","choices":[{"index":0,"delta":{"content":"'
TAIL = b'"},"finish_reason":null}]}'


def stencil_of(text: bytes = b"first", head: bytes = HEAD, tail: bytes = TAIL) -> Stencil:
    stencil = Stencil()
    stencil.learn(head + text + tail)
    return stencil


@pytest.mark.parametrize("text", [b" a", "字".encode(), b"'<&>", "\u00e9 ".encode(), b"x" * 5000])
def test_another_text_fits(text: bytes) -> None:
    """A frame that differs in its text alone fits, whatever characters JSON writes as they are."""
    assert stencil_of().match(b"data: " + HEAD + text + TAIL + b"\n\n")


@pytest.mark.parametrize(
    "text", [b"", b'"', b"\\n", b"\\", b"\n", b"\x7f", b"\x00", b"\xff", b"\xed\xa0\x80", "\u2028".encode(), b'","x":"']
)
def test_what_has_to_be_parsed_does_not_fit(text: bytes) -> None:
    """A frame whose text is empty, or holds an escape, a quote, a control or half a character, is parsed."""
    assert not stencil_of().match(b"data: " + HEAD + text + TAIL + b"\n\n")


def test_a_read_of_several_frames() -> None:
    """Several frames in one read come out one by one. If one does not fit or is not whole, none of them does."""
    stencil = stencil_of()
    texts = [b"a", " ü".encode(), "字".encode(), b"b"]
    read = b"".join(b"data: " + HEAD + text + TAIL + b"\n\n" for text in texts)
    assert stencil.match(read) == texts
    halves = "ü".encode()
    for odd in (HEAD + b"\\n" + TAIL, HEAD + TAIL, HEAD + halves[:1] + TAIL, b"[DONE]", HEAD + b"x"):
        assert not stencil.match(read + b"data: " + odd + b"\n\n")
        assert not stencil.match(b"data: " + odd + b"\n\n" + read)
    split = b"data: " + HEAD + halves[:1] + TAIL + b"\n\ndata: " + HEAD + halves[1:] + TAIL + b"\n\n"
    assert not stencil.match(split)
    assert not stencil.match(read[:-1])
    assert not stencil.match(b": hb\n" + read)


@pytest.mark.parametrize("rest", [b"", b"data: [DONE]\n\n", b"data: " + HEAD, b": hb\n", b"\n", b"data: {}\n\n"])
def test_the_frames_that_a_read_begins_with(rest: bytes) -> None:
    """The frames that fit come out, whatever follows them; none if another frame is between them or before them."""
    stencil = stencil_of()
    run = b"".join(b"data: " + HEAD + text + TAIL + b"\n\n" for text in (b"a", "字".encode()))
    assert stencil.leading(run + rest) == ([b"a", "字".encode()], len(run))
    for odd in (
        b"data: {}\n\n",
        b"data: " + HEAD + TAIL + b"\n\n",
        b"data: " + HEAD + b"\\n" + TAIL + b"\n\n",
        b": hb\n",
    ):
        assert stencil.leading(odd + run) == stencil.leading(run + odd + run) == ([], 0)
    assert Stencil().leading(run) == stencil.leading(b"") == stencil.leading(run[: len(HEAD)]) == ([], 0)


def test_another_frame_does_not_fit() -> None:
    """A frame is no token if one byte around its text differs or is missing, or if the two ends overlap."""
    stencil = stencil_of()
    assert not stencil.match(b"data: " + HEAD.replace(b"c", b"d", 1) + b"x" + TAIL + b"\n\n")
    assert not stencil.match(b"data: " + HEAD + b"x" + TAIL[:-1] + b"\n\n")
    assert not stencil.match(b"data: " + HEAD + b"x" + TAIL.replace(b"null", b'"stop"') + b"\n\n")
    assert not stencil.match(b"data: " + HEAD + TAIL[1:] + b"\n\n")
    assert not Stencil().match(b"data: " + HEAD + b"x" + TAIL + b"\n\n")


def test_it_is_cut_anew_a_few_times_only() -> None:
    """Another head makes another stencil, until it is clear that this upstream's frames are never alike."""
    stencil = Stencil()
    for number in range(MAX_PATTERNS + 1):
        stencil.learn(HEAD.replace(b'"c"', b'"c%d"' % number) + b"x" + TAIL)
    assert stencil.match(b"data: " + HEAD.replace(b'"c"', b'"c%d"' % (MAX_PATTERNS - 1)) + b"y" + TAIL + b"\n\n")


WORDS = st.text(max_size=8) | st.sampled_from(["a", 'content":"x', "\\", '"', "\n", "\ud7ff", "\u2028"])
FRAMES = st.builds(
    lambda before, delta, after, reason: {
        **before,
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **after,
    },
    st.dictionaries(
        st.sampled_from(["content", "id", "error", "meta"]), WORDS | st.fixed_dictionaries({"content": WORDS})
    ),
    st.dictionaries(st.sampled_from(["content", "role"]), WORDS, max_size=2),
    st.dictionaries(st.sampled_from(["content", "usage", "object"]), WORDS),
    st.sampled_from([None, None, None, "stop"]),
)


@given(st.lists(FRAMES, max_size=6), WORDS, st.integers(1, 12))
@example([{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}] * 3, "b", 3)
def test_with_and_without_it_the_same(frames: list[dict[str, Any]], other: str, together: int) -> None:
    """For any frames, and the same with another text, bytes, counts and failures are as if each were parsed.

    The first `together` frames come one by one, the others in one read.
    """
    told = [orjson.dumps(frame) for frame in frames]
    told += [data.replace(b'"content":"a"', b'"content":' + orjson.dumps(other)) for data in told]
    outcomes = []
    for parsed in (True, False):
        transcript = Transcript()
        intake = Intake(transcript, show_usage=True, parsed=parsed)
        lines = [b"data: " + data + b"\n\n" for data in (HEAD + b"a" + TAIL, *told)]
        reads = [*lines[:together], b"".join(lines[together:])]
        said = [piece.data for read in reads for piece in intake.feed(read)]
        failure = intake.failure and (intake.failure.kind, intake.failure.message)
        outcomes.append((said, failure, intake.done, transcript.tokens, transcript.finish, transcript.usage))
    assert outcomes[0] == outcomes[1]
