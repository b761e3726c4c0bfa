"""Seams: for any text, pieces and cut, a reader sees one text, and nothing of another text."""

import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from server.core.errors import Kind, UpstreamError
from server.core.recovery.seam import MAX_OVERLAP, MIN_OVERLAP, Suppression, Trim

Told = list[tuple[int, str, str]]  # pieces: choice, field of the delta, text
NAMES = {"content": "content", "reasoning": "reasoning_content", "refusal": "refusal"}


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": {"content": []}}],
    }


def tell(seam: Suppression | Trim, chunks: Iterable[dict[str, Any]]) -> tuple[dict[tuple[int, str], str], bool]:
    """Return the text that a seam lets out, by choice and field, and whether it diverged."""
    out: defaultdict[tuple[int, str], str] = defaultdict(str)
    try:
        for one in chunks:
            for joined in seam.join(one):
                for choice in joined["choices"]:
                    for name, text in choice["delta"].items():
                        out[choice["index"], name] += text
    except UpstreamError as error:
        if error.kind is not Kind.DIVERGED:
            raise
        return dict(out), True
    return dict(out), False


def pieces(text: str, cuts: list[int]) -> list[str]:
    """A text in pieces, cut at these places (modulo its length)."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


# Few letters, so that texts repeat themselves and overlaps are likely.
TEXT = st.text(st.sampled_from("ab \n🙂é"), max_size=60)
CUTS = st.lists(st.integers(0, 1000), max_size=12)


# --- restart ---------------------------------------------------------------------------------------------------------


@given(TEXT, CUTS, st.integers(0, 1000))
def test_restart_is_seamless(text: str, cuts: list[int], at: int) -> None:
    """If any text is repeated in any pieces after any cut, the delivered part and the output are the text."""
    delivered = text[: at % (len(text) + 1)]
    seam = Suppression({(0, "content"): delivered})
    out, diverged = tell(seam, [*(chunk(content=one) for one in pieces(text, cuts)), chunk(finish="stop")])
    assert not diverged
    assert delivered + out.get((0, "content"), "") == text
    assert seam.end() == []


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), CUTS, st.randoms(), st.data())
def test_restart_of_several_texts(texts: list[tuple[str, str]], cuts: list[int], random: Any, data: Any) -> None:
    """With several choices, which reason first, a restart in another order is joined choice by choice."""
    queues = [
        [(i, "reasoning", one) for one in pieces(thought, cuts)] + [(i, "content", one) for one in pieces(said, cuts)]
        for i, (thought, said) in enumerate(texts)
    ]
    delivered = {}
    for i, (thought, said) in enumerate(texts):
        shown = data.draw(st.integers(0, len(thought + said)))
        delivered[i, "reasoning"] = thought[:shown]
        delivered[i, "content"] = said[: max(0, shown - len(thought))]
    told: Told = []
    while any(queues):
        told.append(random.choice([queue for queue in queues if queue]).pop(0))
    chunks = [chunk(i, **{NAMES[kind]: text}) for i, kind, text in told]
    out, diverged = tell(Suppression(delivered), [*chunks, *(chunk(i, finish="stop") for i in range(len(texts)))])
    assert not diverged
    for i, (thought, said) in enumerate(texts):
        assert delivered[i, "reasoning"] + out.get((i, "reasoning_content"), "") == thought
        assert delivered[i, "content"] + out.get((i, "content"), "") == said


def similar(delivered: str) -> st.SearchStrategy[tuple[str, str]]:
    """A text, and another one: of its characters in another order, with one of them changed, or any."""
    shuffled = st.permutations(delivered).map("".join)
    changed = st.tuples(st.integers(0, max(0, len(delivered) - 1)), st.sampled_from("ab")).map(
        lambda edit: delivered[: edit[0]] + edit[1] + delivered[edit[0] + 1 :]
    )
    return st.tuples(st.just(delivered), shuffled | changed | TEXT)


@given(st.text(st.sampled_from("ab"), max_size=10).flatmap(similar) | TEXT.flatmap(similar), CUTS)
def test_any_divergence_is_seen(texts: tuple[str, str], cuts: list[int]) -> None:
    """A text that does not begin with the delivered one diverges, at its finish at the latest, and is not shown."""
    delivered, other = texts
    assume(not other.startswith(delivered))
    out, diverged = tell(
        Suppression({(0, "content"): delivered}),
        [*(chunk(content=one) for one in pieces(other, cuts)), chunk(finish="stop")],
    )
    assert diverged
    assert out == {}


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(finish="stop")],
        [chunk(content="ab"), chunk(finish="stop")],
        [chunk(content="ab", finish="stop")],
        [chunk(content="ab"), chunk(finish="length")],
        [chunk(content="ab"), chunk(reasoning_content="hm")],
        [chunk(content="ab"), chunk(refusal="no")],
        [chunk(reasoning="hm"), chunk(content="abcd")],
        [chunk(content="ab", tool_calls=[{"index": 0}])],
        [chunk(content="ab"), chunk(audio={"id": "a"})],
        [chunk(content=["abc"])],
        [chunk(content={"text": "abc"})],
        [chunk(content=3)],
    ],
)
def test_anything_new_inside_the_prefix(chunks: list[dict[str, Any]]) -> None:
    """A finish, another kind of text, a call or content that is no text inside the delivered prefix diverges."""
    assert tell(Suppression({(0, "content"): "abc"}), chunks) == ({}, True)


def test_done_inside_the_prefix() -> None:
    """An end without a finish reason inside the delivered prefix diverges; after it, it does not."""
    seam = Suppression({(0, "content"): "abc"})
    seam.join(chunk(content="ab"))
    with pytest.raises(UpstreamError) as raised:
        seam.end()
    assert raised.value.kind is Kind.DIVERGED
    seam.join(chunk(content="c"))
    assert seam.end() == []


def test_a_choice_that_had_finished() -> None:
    """A choice that had finished repeats its text and its finish, and none of that goes out."""
    texts, finished = {(0, "content"): "abc", (1, "content"): "x"}, {0: "stop"}
    told = [chunk(0, content="abc"), chunk(1, content="xy"), chunk(0, finish="stop"), chunk(1, finish="length")]
    assert tell(Suppression(texts, finished), told) == ({(1, "content"): "y"}, False)
    at_once = [chunk(0, content="abc", finish="stop"), chunk(0, role="assistant"), chunk(0)]
    assert tell(Suppression(texts, finished), at_once) == ({}, False)


@pytest.mark.parametrize(
    "last",
    [
        chunk(content="d"),
        chunk(content="d", finish="stop"),
        chunk(finish="length"),
        chunk(reasoning="hm"),
        chunk(tool_calls=[{"index": 0}]),
    ],
)
def test_a_choice_that_had_finished_goes_on(last: dict[str, Any]) -> None:
    """A choice that had finished and now says more, or finishes for another reason, diverges."""
    assert tell(Suppression({(0, "content"): "abc"}, {0: "stop"}), [chunk(content="abc"), last]) == ({}, True)


def test_the_chunk_across_the_seam() -> None:
    """The chunk across the seam keeps its fields, but not its log probabilities; later ones go through as they are."""
    seam = Suppression({(0, "content"): "abc"})
    assert seam.join(chunk(role="assistant", content="")) == []
    crossing = seam.join(chunk(content="abcd", role="assistant"))
    assert crossing == [{"id": "c", "choices": [{"index": 0, "delta": {"content": "d"}, "finish_reason": None}]}]
    assert seam.join(chunk(content="e")) == [chunk(content="e")]
    assert seam.join(chunk(role="assistant", content="")) == []


def test_unknown_fields() -> None:
    """What comes beside texts is told once: as many items as were delivered are dropped, wherever they come again."""
    seam = Suppression({(0, "content"): "abc"}, others={(0, "annotations"): 3})
    assert seam.join(chunk(content="ab", annotations=["old"])) == []
    assert seam.join(chunk(annotations=["old"])) == []
    assert seam.join(chunk(content="c", annotations=["old"])) == []
    assert seam.join(chunk(annotations=["new"])) == [chunk(annotations=["new"])]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
ONCE: dict[str, tuple[dict[tuple[int, str], int], list[dict[str, Any]], list[dict[str, Any]]]] = {
    "an image after the text": (
        {(0, "images"): 1},
        [chunk(content="abc"), chunk(images=[IMAGE]), chunk(content="d")],
        [{"content": "d"}],
    ),
    "another image in its place": (
        {(0, "images"): 1},
        [chunk(content="abc"), chunk(images=["another"]), chunk(images=["second"])],
        [{"images": ["second"]}],
    ),
    "an image before the text": (
        {(0, "images"): 1},
        [chunk(images=[IMAGE]), chunk(content="abcd")],
        [{"content": "d"}],
    ),
    "an image that was not told, inside the text": (
        {},
        [chunk(content="ab"), chunk(images=[IMAGE]), chunk(content="cd")],
        [{"images": [IMAGE]}, {"content": "d"}],
    ),
    "with the text": (
        {(0, "images"): 1},
        [chunk(content="abc", images=[IMAGE]), chunk(content="d", images=["new"])],
        [{"content": "d", "images": ["new"]}],
    ),
    "more in one delta than were told": (
        {(0, "annotations"): 1},
        [chunk(content="abc"), chunk(annotations=[1, 2, 3])],
        [{"annotations": [2, 3]}],
    ),
    "a signature": (
        {(0, "signature"): 1},
        [chunk(content="abc"), chunk(signature="s"), chunk(signature="t")],
        [{"signature": "t"}],
    ),
    "an object": (
        {(0, "context"): 1},
        [chunk(context={"citations": []}), chunk(content="abcd")],
        [{"content": "d"}],
    ),
    "of another choice": (
        {(1, "images"): 1},
        [chunk(content="abc"), chunk(images=[IMAGE])],
        [{"images": [IMAGE]}],
    ),
    "details that repeat the text": (
        {},
        [
            chunk(content="ab", reasoning_details=[{"text": "ab"}]),
            chunk(reasoning_details=[{"text": "x"}]),
            chunk(content="cd", reasoning_details=[{"text": "cd"}, {"signature": "s"}]),
            chunk(content="e", reasoning_details=[{"text": "e"}]),
        ],
        [
            {"content": "d", "reasoning_details": [{"text": "d"}, {"signature": "s"}]},
            {"content": "e", "reasoning_details": [{"text": "e"}]},
        ],
    ),
}


@pytest.mark.parametrize("what", ONCE)
def test_told_once(what: str) -> None:
    """Images, annotations, signatures and the like go out once, whichever attempt they come from."""
    others, said, wanted = ONCE[what]
    seam = Suppression({(0, "content"): "abc"}, others=others)
    assert [joined["choices"][0]["delta"] for one in said for joined in seam.join(one)] == wanted


@pytest.mark.parametrize(
    ("delivered", "said", "wanted"),
    [
        ("a\ud83d", ["a🙂b"], ["\ude42b"]),
        ("a\ud83d", ["a\ud83d", "\ude42", "b"], ["\ude42", "b"]),
        ("a🙂", ["a\ud83d", "\ude42b🙂"], ["b🙂"]),
        ("a🙂", ["a🙂", "🙂"], ["🙂"]),
    ],
)
def test_halves_of_surrogate_pairs(delivered: str, said: list[str], wanted: list[str]) -> None:
    """A character that one attempt cuts in two is the same character in another attempt."""
    seam = Suppression({(0, "content"): delivered})
    out = [joined["choices"][0]["delta"]["content"] for text in said for joined in seam.join(chunk(content=text))]
    assert out == wanted
    trim = Trim("a\ud83d", "\ud83d")
    assert trim.join(chunk(content="🙂b"))[0]["choices"][0]["delta"] == {"content": "\ude42b"}


def test_reasoning_under_two_names() -> None:
    """Reasoning is one text if it comes as `reasoning`, as `reasoning_content` or as both at once."""
    for names in (["reasoning"], ["reasoning_content"], ["reasoning", "reasoning_content"]):
        told = [chunk(**dict.fromkeys(names, "ab")), chunk(**dict.fromkeys(names, "cd")), chunk(content="x")]
        wanted = {(0, name): "d" for name in names} | {(0, "content"): "x"}
        assert tell(Suppression({(0, "reasoning"): "abc"}), told) == (wanted, False)


def test_missing_index() -> None:
    """A choice without an index, or with null, is the first one."""
    for choice in ({"delta": {"content": "abc"}}, {"index": None, "delta": {"content": "abc"}}):
        seam = Suppression({(0, "content"): "ab"})
        assert seam.join({"choices": [choice]})[0]["choices"][0]["delta"] == {"content": "c"}


def test_several_choices_in_one_chunk() -> None:
    """Of a chunk with several choices only those with new text go out."""
    seam = Suppression({(0, "content"): "ab", (1, "content"): "x"})
    both = {"choices": [chunk(0, content="ab")["choices"][0], chunk(1, content="xy")["choices"][0]]}
    assert [choice["index"] for one in seam.join(both) for choice in one["choices"]] == [1]


def test_long_texts_are_linear() -> None:
    """A long text that is repeated in pieces of four characters costs time in proportion to its length."""
    text = "".join(f"{number:x} " for number in range(120_000))
    told = [chunk(content=text[at : at + 4]) for at in range(0, len(text), 4)]
    seam, began = Suppression({(0, "content"): text}), time.process_time()
    assert not any(seam.join(one) for one in told)
    assert time.process_time() - began < 5  # half a second; cutting the rest anew for each piece takes a dozen


# --- continuation ----------------------------------------------------------------------------------------------------


def go_on(seam: Trim, text: str, cuts: list[int], *, finish: str | None = "stop") -> str:
    """Return what goes out of a continuation that sends `text` in pieces."""
    out, _ = tell(
        seam, [*(chunk(content=one) for one in pieces(text, cuts)), *([chunk(finish=finish)] if finish else [])]
    )
    if finish is None:
        rest, _ = tell(seam, seam.end())
        return out.get((0, "content"), "") + rest.get((0, "content"), "")
    return out.get((0, "content"), "")


FINISH = st.sampled_from(["stop", None])


@given(TEXT, TEXT, CUTS, FINISH)
def test_exact_forms_lose_nothing(delivered: str, more: str, cuts: list[int], finish: str | None) -> None:
    """If nothing was stripped and the upstream is not known to echo, all its text goes out: it may repeat words."""
    for text in (more, delivered + more, delivered[-20:] + more):
        assert go_on(Trim(delivered), text, cuts, finish=finish) == text


WORDS = st.text(st.sampled_from("ab🙂"), min_size=1, max_size=30)
SPACE = st.text(st.sampled_from(" \n\t"), max_size=5)


@given(WORDS, SPACE, WORDS, CUTS, FINISH)
def test_white_space_comes_back(said: str, space: str, more: str, cuts: list[int], finish: str | None) -> None:
    """White space that was stripped from the prefill is in the text once, whether the upstream repeats it or not."""
    for returned in {space, "", *(space[i:] for i in range(len(space)))}:
        seam = Trim(said + space, space)
        assert said + space + go_on(seam, returned + more, cuts, finish=finish) == said + space + more


@given(WORDS, SPACE, WORDS, CUTS, FINISH)
def test_echo(said: str, space: str, more: str, cuts: list[int], finish: str | None) -> None:
    """The whole prefix sent again, with or without the white space after it, is taken away once."""
    said = "It was a dark night: " + said
    for echo in (said, said + space, ""):
        assert go_on(Trim(said + space, space, echo=True), echo + more, cuts, finish=finish) == more


@given(WORDS, SPACE, WORDS, CUTS, st.integers(MIN_OVERLAP, 60), FINISH)
def test_user_turn(said: str, space: str, more: str, cuts: list[int], quoted: int, finish: str | None) -> None:
    """If the answer to a user turn quotes the end of the text, or all of it, the quote is removed."""
    said = "One, two, three, four, five: " + said
    for echo in (said[-quoted:], said, ""):
        seam = Trim(said + space, space, turn=True)
        assert go_on(seam, echo + space + "|" + more, cuts, finish=finish) == "|" + more


def test_short_repetitions_stay() -> None:
    """A repetition that is shorter than the least overlap is no echo."""
    assert go_on(Trim("ha ha ", " ", turn=True), "ha ha!", [2]) == "ha ha!"
    assert go_on(Trim("ha ha ", " ", echo=True), "ha ha!", [2]) == "ha ha!"
    long = "x" * 50 + "the end is n"
    assert go_on(Trim(long, turn=True), long[-MIN_OVERLAP:] + "ear", []) == "ear"
    assert go_on(Trim(long, turn=True), long[-MIN_OVERLAP + 1 :] + "ear", []) == long[-MIN_OVERLAP + 1 :] + "ear"


def test_only_at_the_start() -> None:
    """After the first word that is new nothing is held back or taken away any more."""
    seam = Trim("One, two, three, four. ", " ", echo=True)
    assert go_on(seam, "And ", [], finish="") == "And "
    assert go_on(seam, "One, two, three, four. Again. ", [], finish="") == "One, two, three, four. Again. "


def test_quotes_are_bounded() -> None:
    """A quote of a long text is found if it is its end, or the whole text. That takes milliseconds."""
    text = "".join(f"{number:x} " for number in range(200_000)).rstrip()
    began = time.process_time()
    assert go_on(Trim(text, turn=True), text[-MAX_OVERLAP:] + "!", list(range(0, MAX_OVERLAP, 100))) == "!"
    assert go_on(Trim(text, turn=True), text + "!", list(range(0, 1000, 100))) == "!"
    assert go_on(Trim(text, turn=True), text[-MAX_OVERLAP - 1 :] + "!", []) == text[-MAX_OVERLAP - 1 :] + "!"
    assert time.process_time() - began < 10


def test_held_text_keeps_its_chunk() -> None:
    """While text is held back, reasoning and unknown fields still go out; the finish brings the held text along."""
    seam = Trim("Hello \n", " \n")
    assert seam.join(chunk(content=" ", role="assistant")) == []
    [one] = seam.join(chunk(reasoning="hm"))
    assert one["choices"][0]["delta"] == {"reasoning": "hm"}
    [last] = seam.join(chunk(finish="stop"))
    assert last["choices"] == [{"index": 0, "delta": {"content": " "}, "finish_reason": "stop"}]
    assert seam.end() == []


@pytest.mark.parametrize("delta", [{"content": None}, {"content": ["part"]}, {"content": 5}, None])
def test_no_text(delta: Any) -> None:
    """A trim passes content that is no text unchanged, and drops empty content."""
    seam = Trim("Hello ", " ")
    joined = seam.join({"choices": [{"delta": delta}]})
    assert [one["choices"][0]["delta"] for one in joined] == ([delta] if delta and delta["content"] else [])
