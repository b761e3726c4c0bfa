"""The stencil: what fits it would have been parsed to the same."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.core.intake import Intake
from server.core.stencil import LEARNT, Stencil
from server.core.transcript import Transcript

HEAD = b'{"id":"c","choices":[{"index":0,"delta":{"content":"'
TAIL = b'"},"finish_reason":null}]}'


def cut_from(text: bytes = b"first", head: bytes = HEAD, tail: bytes = TAIL) -> Stencil:
    stencil = Stencil()
    stencil.cut(head + text + tail)
    return stencil


@pytest.mark.parametrize("text", [b" a", "字".encode(), b"'<&>", "\u00e9 ".encode(), b"x" * 5000])
def test_another_text_fits(text: bytes) -> None:
    """A frame that differs in its text alone fits, whatever characters JSON writes as they are."""
    assert cut_from().fits(HEAD + text + TAIL)


@pytest.mark.parametrize(
    "text", [b"", b'"', b"\\n", b"\\", b"\n", b"\x7f", b"\x00", b"\xff", b"\xed\xa0\x80", "\u2028".encode(), b'","x":"']
)
def test_what_has_to_be_parsed_does_not_fit(text: bytes) -> None:
    """No text, an escape, a quote, a control character or half a character: it is parsed like any other frame."""
    assert not cut_from().fits(HEAD + text + TAIL)


def test_another_frame_does_not_fit() -> None:
    """One byte around the text that differs, one too few, the two ends overlapping: no token at a glance."""
    stencil = cut_from()
    assert not stencil.fits(HEAD.replace(b"c", b"d", 1) + b"x" + TAIL)
    assert not stencil.fits(HEAD + b"x" + TAIL[:-1])
    assert not stencil.fits(HEAD + b"x" + TAIL.replace(b"null", b'"stop"'))
    assert not stencil.fits(HEAD + TAIL[1:])
    assert not Stencil().fits(HEAD + b"x" + TAIL)


def test_it_is_cut_anew_a_few_times_only() -> None:
    """Another head makes another stencil, until it is clear that this upstream's frames are never alike."""
    stencil = Stencil()
    for number in range(LEARNT + 1):
        stencil.cut(HEAD.replace(b'"c"', b'"c%d"' % number) + b"x" + TAIL)
    assert stencil.fits(HEAD.replace(b'"c"', b'"c%d"' % (LEARNT - 1)) + b"y" + TAIL)


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


@given(st.lists(FRAMES, max_size=6), WORDS)
@example([{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}], "b")
def test_with_and_without_it_the_same(frames: list[dict[str, Any]], other: str) -> None:
    """Whatever comes, and the same with another text: bytes, counts and failures are those of parsing each frame."""
    told = [orjson.dumps(frame) for frame in frames]
    told += [data.replace(b'"content":"a"', b'"content":' + orjson.dumps(other)) for data in told]
    outcomes = []
    for parsed in (True, False):
        transcript = Transcript()
        intake = Intake(transcript, show_usage=True, parsed=parsed)
        said = [piece.data for data in (HEAD + b"a" + TAIL, *told) for piece in intake.feed(b"data: " + data + b"\n\n")]
        failure = intake.failure and (intake.failure.kind, intake.failure.message)
        outcomes.append((said, failure, intake.done, transcript.tokens, transcript.finish, transcript.usage))
    assert outcomes[0] == outcomes[1]
