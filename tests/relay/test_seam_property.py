"""The seam through a running relay: any text in any pieces, cut anywhere in any way, told again in other pieces."""

import itertools
import json

import pytest
import pytest_asyncio
from gateway import in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import complete, texts

MODELS = (f"seam-{number:05}" for number in itertools.count())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60) | st.text(" \nab水🌊é", min_size=1)
FAULTS = st.sampled_from(["cut_after", "reset_after", "reset_in_utf8_at", "eof_after", "garbage_at", "error_at"])
WIRE = st.fixed_dictionaries(
    {"newline": st.sampled_from(["\n", "\r\n", "\r"])},
    optional={"split": st.sampled_from(["byte", "random", 7]), "seed": st.integers(0, 1000)},
)
FEW = settings(max_examples=60, deadline=None)  # real requests: a few milliseconds each


@st.composite
def told(draw, text: str) -> list[str]:
    """Draw a way to cut a text into pieces."""
    places = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=12)))
    bounds = [0, *(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


@st.composite
def interrupted(draw) -> tuple[str, list[dict]]:
    """Draw a text and the scripts of up to three interrupted tellings and a whole one."""
    text = draw(TEXT)
    calls = []
    for _ in range(draw(st.integers(1, 3))):
        pieces = draw(told(text))
        fault = {draw(FAULTS): draw(st.integers(0, len(pieces)))}
        calls.append({"pieces": pieces, "finish": None, "done": False, **fault, **draw(WIRE)})
    return text, [*calls, {"pieces": draw(told(text)), **draw(WIRE)}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(provider):
    """Run a gateway for each strategy."""
    recovery = {"backoff": 0.0, "max_retries": 9, "max_recoveries": 9, "breaker_failures": 1_000_000}
    upstream = {"continuation": "assistant"}
    async with (
        in_process(provider.url, upstream=upstream, recovery={**recovery, "strategy": "restart"}) as restart,
        in_process(provider.url, upstream=upstream, recovery={**recovery, "strategy": "continue"}) as going_on,
    ):
        yield {"restart": restart, "continue": going_on}


def check(answer, text: str) -> None:
    """Check that the text came once, under one id, with ids that have no gap, and its ending."""
    events = answer.events
    assert "".join(texts(events)) == text
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].data == b"[DONE]"
    assert len({json.loads(event.data)["id"] for event in events[:-1]}) == 1


@pytest.mark.asyncio(loop_scope="module")
@FEW
@given(case=interrupted())
async def test_restart(gateways, provider, case) -> None:
    """By restart the caller gets the text, whatever was told how often before."""
    text, calls = case
    model = next(MODELS)
    await provider.script(model, *calls)
    check(await complete(gateways["restart"].root, model), text)


@pytest.mark.asyncio(loop_scope="module")
@FEW
@given(case=interrupted())
async def test_continuation(gateways, provider, case) -> None:
    """By continuation too, of a target that goes on exactly from what it is given, white space and all."""
    text, calls = case
    model = next(MODELS)
    await provider.script(model, *({**call, "continue_text": True} for call in calls))
    check(await complete(gateways["continue"].root, model), text)


@pytest.mark.asyncio(loop_scope="module")
@FEW
@given(case=interrupted(), data=st.data())
async def test_another_text(gateways, provider, case, data) -> None:
    """Where the restart tells another text the caller gets a beginning of the first one and an error, or one text."""
    text, calls = case
    other = data.draw(TEXT)
    model = next(MODELS)
    await provider.script(model, calls[0], {"pieces": data.draw(told(other))})
    answer = await complete(gateways["restart"].root, model)
    got = "".join(texts([event for event in answer.events if b'"error"' not in event.data]))
    if answer.events[-1].data == b"[DONE]":
        assert got in (text, other)
    else:
        assert text.startswith(got)
        assert not other.startswith(got) or len(other) <= len(got)
        assert "recovery_diverged" in json.loads(answer.events[-1].data)["error"]["message"]
