"""A Responses request that the operator's functions have changed, also after its log was taken over."""

from dataclasses import replace

import orjson
import pytest

from server.core.body import Body
from server.core.generation import with_changes
from server.core.records import Beginning
from server.dialects.responses.request import chat_body
from server.dialects.responses.routes import logged
from server.dialects.responses.upstream import ResponsesApi

SOURCE = {"model": "m", "input": "as it was asked", "stream": True}


@pytest.mark.parametrize("changes", [{}, {"messages": [{"role": "user", "content": "as it was changed"}]}])
def test_the_upstream_gets_the_changes(changes: dict[str, object]) -> None:
    """An upstream that speaks Responses gets the client's own request, unless it was changed."""
    beginning = Beginning("strm_1", "", "responses", "m", 0.0, Body(SOURCE).data)
    if changes:
        generation = replace(logged(beginning), body={**chat_body(SOURCE).body, **changes}, changed=True)
        beginning = replace(beginning, body=with_changes(generation), changed=True)
    generation = logged(beginning)
    assert generation.changed is bool(changes)
    sent = orjson.loads(ResponsesApi().body(generation, "theirs", ask_usage=True, drop_usage=False, changes=None))
    text = orjson.dumps(sent["input"]).decode()
    assert ("as it was changed" in text, "as it was asked" in text) == (bool(changes), not changes)
