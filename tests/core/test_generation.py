"""The bodies that go upstream, and what a request forbids."""

from typing import Any

import orjson
import pytest

from server.core.body import Body
from server.core.generation import Generation, logged_generation
from server.core.records import Beginning


def generation(body: dict[str, Any], *, stream: bool = True) -> Generation:
    return Generation("chat", "m", body, stream, "cancel")


BODY = {"model": "m", "messages": [{"role": "user", "content": "é"}], "stream": True, "new_field": {"a": [1]}}


LIMITS = [
    ("gpt-5.1-mini", {"max_completion_tokens": 9}),
    ("openai/o3", {"max_completion_tokens": 9}),
    ("gpt-4.1", {"max_tokens": 9}),
    ("local", {"max_tokens": 9}),
]


@pytest.mark.parametrize(("model", "limit"), LIMITS)
def test_the_name_of_the_limit(model: str, limit: dict[str, int]) -> None:
    """A translated request has the limit under the name that the target's model takes; a chat client's stays."""
    body = {"model": "m", "messages": [], "max_tokens": 9}
    translated = Generation("other", "m", body, stream=True, policy="cancel", source=Body({}))
    expected = {"model": model, "messages": [], **limit}
    sent = orjson.loads(translated.upstream_body(model, ask_usage=False))
    assert sent == expected
    shrunk = orjson.loads(translated.upstream_body(model, ask_usage=False, changes={"max_tokens": 5}))
    assert shrunk == {**expected, **dict.fromkeys(limit, 5)}
    own = Generation("chat", "m", body, stream=True, policy="cancel")
    assert orjson.loads(own.upstream_body(model, ask_usage=False)) == {**body, "model": model}


def test_passed_on() -> None:
    """The client's fields go on as they are, known or not; only the model's name is the upstream's."""
    sent = orjson.loads(generation(BODY).upstream_body("theirs", ask_usage=False))
    assert sent == {**BODY, "model": "theirs"}
    assert BODY["model"] == "m"


def test_usage_is_asked_for() -> None:
    """Streams ask for usage, beside the client's own options; other requests do not."""
    for options in (None, "x", {"include_usage": False}, {"include_usage": True}):
        sent = orjson.loads(generation({**BODY, "stream_options": options}).upstream_body("t", ask_usage=True))
        assert sent["stream_options"] == {"include_usage": True}
    sent = orjson.loads(generation({**BODY, "stream_options": {"x": 1}}).upstream_body("t", ask_usage=True))
    assert sent["stream_options"] == {"x": 1, "include_usage": True}
    whole = orjson.loads(generation(BODY, stream=False).upstream_body("t", ask_usage=True))
    assert "stream_options" not in whole


def test_changes() -> None:
    """The fields of a continuation replace the client's, for one attempt."""
    asked = generation({**BODY, "max_tokens": 9})
    assert orjson.loads(asked.upstream_body("t", ask_usage=False, changes={"max_tokens": 4}))["max_tokens"] == 4
    assert orjson.loads(asked.upstream_body("t", ask_usage=False))["max_tokens"] == 9


@pytest.mark.parametrize(
    ("fields", "structured"),
    [
        ({}, False),
        ({"response_format": None}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": "json"}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, True),
        ({"guided_json": {"type": "object"}}, True),
        ({"guided_choice": ["a"]}, True),
        ({"structured_outputs": {"json": {}}}, True),
        ({"grammar": "root ::= x"}, True),
        ({"ebnf": "root ::= x"}, True),
        ({"guided_regex": None}, False),
    ],
)
def test_structured(fields: dict[str, Any], structured: bool) -> None:
    """A request for a constrained answer is known by each of the fields that upstreams have for it."""
    assert generation({**BODY, **fields}).structured is structured


def test_usage_is_dropped() -> None:
    """For an upstream that refuses it, nobody asks for usage; other stream options of the client stay."""
    for options, wanted in (({"include_usage": True}, None), ({"include_usage": True, "x": 1}, {"x": 1}), (None, None)):
        body = generation({**BODY, "stream_options": options}).upstream_body("t", ask_usage=True, drop_usage=True)
        assert orjson.loads(body).get("stream_options") == wanted
    whole = generation({**BODY, "stream_options": {"x": 1}}, stream=False)
    assert orjson.loads(whole.upstream_body("t", ask_usage=True, drop_usage=True))["stream_options"] == {"x": 1}


def test_a_logged_request_is_not_parsed() -> None:
    """A reader in another dialect needs to know little of the request: here it is none, and nobody notices."""
    beginning = Beginning("strm_1", "", "chat", "m", 0.0, b"no JSON", choices=3, asks_usage=True)
    generation = logged_generation(beginning, show_usage=True)
    assert (generation.choices, generation.show_usage) == (3, True)
    older = Beginning("strm_1", "", "chat", "m", 0.0, b'{"n":2,"stream_options":{"include_usage":true}}')
    assert (logged_generation(older).choices, logged_generation(older, show_usage=True).show_usage) == (2, True)
