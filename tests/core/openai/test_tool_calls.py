"""Assembling tool calls from deltas: pure, no I/O."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import StreamError
from server.core.openai.tool_calls import MAX_CALLS, MAX_SIZE, ToolCall, ToolCalls


def piece(index: int | None = None, text: str = "", **head: str) -> dict[str, Any]:
    """Give a delta with one piece of a call."""
    function = {"arguments": text, **({"name": head.pop("name")} if "name" in head else {})}
    return {"tool_calls": [{**({} if index is None else {"index": index}), **head, "function": function}]}


def assemble(*deltas: dict[str, Any], whole: bool = True) -> list[ToolCall]:
    """Feed deltas and take the calls."""
    calls = ToolCalls()
    for delta in deltas:
        calls.feed(delta)
    return calls.take(whole=whole)


def test_one_call_in_pieces() -> None:
    """Id and name come once, the arguments in pieces: one call comes out, parsed."""
    (call,) = assemble(piece(0, id="a", name="add"), piece(0, '{"x":'), piece(0, " 1}"))
    assert call == ToolCall("a", "add", '{"x": 1}', {"x": 1})


def test_several_at_once() -> None:
    """Interleaved pieces go to the call of their index, and the calls come out in its order."""
    calls = assemble(
        piece(1, id="b", name="two"), piece(0, id="a", name="one"), piece(1, "[1,"), piece(0, "{}"), piece(1, "2]")
    )
    assert [(call.id, call.name, call.arguments) for call in calls] == [("a", "one", {}), ("b", "two", [1, 2])]


def test_all_calls_in_one_delta() -> None:
    """One delta may bring several whole calls."""
    both = {
        "tool_calls": piece(0, "{}", id="a", name="one")["tool_calls"]
        + piece(1, "{}", id="b", name="two")["tool_calls"]
    }
    assert [call.id for call in assemble(both)] == ["a", "b"]


def test_legacy_function_call() -> None:
    """A `function_call` is assembled like a call, and gets an id."""
    (call,) = assemble(
        {"function_call": {"name": "add", "arguments": ""}}, {"function_call": {"arguments": '{"x":1}'}}
    )  # fmt: skip
    assert (call.id, call.name, call.arguments) == ("call_0_0", "add", {"x": 1})


def test_no_arguments() -> None:
    """A finished call without arguments is whole, with none. One that broke off before them is incomplete."""
    assert assemble(piece(0, id="a", name="now"))[0].arguments == {}
    (cut,) = assemble(piece(0, id="a", name="now"), whole=False)
    assert cut.incomplete
    assert (cut.id, cut.name, cut.arguments, cut.raw, cut.error) == ("a", "now", None, "", "The arguments broke off.")


def test_broken_off() -> None:
    """In a turn that was cut short a call is incomplete unless its arguments are closed."""
    done, open_ = assemble(
        piece(0, '{"x":1}', id="a", name="one"), piece(1, '{"x":', id="b", name="two"), whole=False
    )  # fmt: skip
    assert (done.incomplete, done.arguments) == (False, {"x": 1})
    assert (open_.incomplete, open_.arguments, open_.raw) == (True, None, '{"x":')


def test_a_number_may_go_on() -> None:
    """A broken-off `1` may have become `12`: only a closed object is whole without a finish reason."""
    (call,) = assemble(piece(0, "1", id="a", name="one"), whole=False)
    assert call.incomplete


def test_not_json() -> None:
    """Finished arguments that are not JSON come out raw, with an error, and are not incomplete."""
    (call,) = assemble(piece(0, "{x: 1}", id="a", name="add"))
    assert (call.arguments, call.raw, call.incomplete) == (None, "{x: 1}", False)
    assert call.error is not None
    assert call.error.startswith("The arguments are not JSON")


def test_ids_differ() -> None:
    """Calls without an id, or with the same one, get ids that differ, also from those of another turn."""
    first, second = assemble(piece(0, "{}", name="a"), piece(1, "{}", name="b"))
    assert first.id != second.id
    later = ToolCalls(turn=1)
    later.feed(piece(0, "{}", name="a"))
    assert later.take(whole=True)[0].id not in (first.id, second.id)
    same = assemble(*(piece(index, "{}", id=id_, name="a") for index, id_ in enumerate(["x", "x_1", "x", "x", "x_1"])))
    assert len({call.id for call in same}) == 5


@pytest.mark.parametrize("depth", [253, 254, 300, 5000])
def test_arguments_nested_deeply(depth: int) -> None:
    """Arguments that are nested more deeply than they can be written come out raw, with an error."""
    raw = '{"a":' + "[" * depth + "]" * depth + "}"
    (call,) = assemble(piece(0, raw, id="a", name="add"))
    assert call.raw == raw
    orjson.dumps({"type": "tool_call", "arguments": call.arguments})
    assert (call.arguments is None) == (call.error is not None) == (depth > 252)


def test_arguments_nested_deeply_as_an_object() -> None:
    """So do arguments that came as an object and not as its text."""
    nested: Any = {}
    for _ in range(300):
        nested = {"a": nested}
    (call,) = assemble({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "add", "arguments": nested}}]})
    assert (call.name, call.arguments, call.error) == ("add", None, "The arguments are nested too deeply.")


def test_a_character_in_two_halves() -> None:
    """The halves of a surrogate pair, which came in two pieces, are one character of the arguments."""
    (call,) = assemble(piece(0, '{"x":"\ud83d', id="a", name="add"), piece(0, '\ude00"}'))
    assert call.arguments == {"x": "😀"}


@pytest.mark.parametrize("part", ["id", "name", "arguments"])
def test_everything_counts(part: str) -> None:
    """Ids, names and arguments are counted, before they are kept: 200 names of 1 MB fail with the fifth."""
    long = "x" * 1_000_000
    function = {"name": "f", "arguments": ""} | ({} if part == "id" else {part: long})
    calls, last = ToolCalls(), MAX_SIZE // len(long)
    for index in range(last):
        calls.feed({"tool_calls": [{"index": index, "id": long if part == "id" else "", "function": function}]})
    with pytest.raises(StreamError, match="too large"):
        calls.feed({"tool_calls": [{"index": last, "id": long if part == "id" else "", "function": function}]})


def test_too_many_calls() -> None:
    """8,000 calls with one id fail the stream: those of one delta at once, those of many deltas with the next."""
    pieces = [piece(index, "{}", id="x", name="f") for index in range(8000)]
    with pytest.raises(StreamError, match="more than 256 tool calls"):
        ToolCalls().feed({"tool_calls": [one for delta in pieces for one in delta["tool_calls"]]})
    calls = ToolCalls()
    for delta in pieces[:MAX_CALLS]:
        calls.feed(delta)
    with pytest.raises(StreamError, match="more than 256 tool calls"):
        calls.feed(pieces[MAX_CALLS])
    assert len({call.id for call in calls.take(whole=True)}) == MAX_CALLS


def test_nonsense() -> None:
    """Deltas of the wrong shape are passed over without an error."""
    odd: list[Any] = [
        None,
        "x",
        3,
        [None, "x"],
        [{}],
        [{"index": "a", "id": 3, "function": None}],
        [{"index": -5}],
        [{"index": True}],
        [{"index": float("nan")}],
        [{"index": 1e300}],
        [{"index": "9" * 5000}],
        [{"index": []}],
    ]
    for value in odd:
        calls = ToolCalls()
        calls.feed({"tool_calls": value})
        calls.feed({"function_call": value})
        calls.take(whole=True)


@given(
    st.lists(
        st.dictionaries(st.text(), st.integers(min_value=-(2**63), max_value=2**63 - 1) | st.text()),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 7),
    st.booleans(),
)
def test_any_arguments_in_any_pieces(arguments: list[dict[str, Any]], size: int, interleave: bool) -> None:
    """Whatever the arguments, the size of the pieces and their order among the calls, each call comes out whole."""
    rows = []
    for index, given_ in enumerate(arguments):
        text = orjson.dumps(given_).decode()
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        rows.append([piece(index, id=f"c{index}", name=f"t{index}"), *(piece(index, part) for part in parts)])
    ordered = (
        [one for row in itertools.zip_longest(*rows) for one in row if one] if interleave else itertools.chain(*rows)
    )
    assert [call.arguments for call in assemble(*ordered)] == arguments


def test_arguments_that_cannot_be_written() -> None:
    """Arguments nested 300 levels deep are an error, also as an object. Brackets in texts do not count."""
    deep = "[" * 300 + "]" * 300
    for text in (deep, '{"x": ' + deep + "}"):
        (call,) = assemble(piece(0, text, id="a", name="f"))
        assert (call.arguments, call.incomplete) == (None, False)
        assert "nested too deeply" in str(call.error)
    value: dict[str, Any] = {}
    for _ in range(300):
        value = {"x": value}
    (call,) = assemble({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": value}}]})
    assert call.arguments is None
    assert call.error is not None
    (call,) = assemble(piece(0, orjson.dumps({"x": "[" * 300}).decode(), id="a", name="f"))
    assert call.arguments == {"x": "[" * 300}
