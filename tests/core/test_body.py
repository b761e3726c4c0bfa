"""A request's body that is kept as bytes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.body import Body

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=5)


@given(OBJECTS, OBJECTS)
def test_like_a_dict(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    """A body is what it was made of, also when it is read again, and its changed bytes are the merged object."""
    for body in (Body(fields), Body.read(Body(fields).data)):
        assert dict(body) == fields
        assert list(body) == list(fields)
        assert len(body) == len(fields)
        assert orjson.loads(body.changed(changes)) == fields | changes
        assert orjson.loads(body.data) == fields
        assert all(name in body and body[name] == value for name, value in fields.items())


def test_order() -> None:
    """Fields keep the client's order, in the body and in what goes upstream: the order of a schema has a meaning."""
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    body = Body({"tools": [schema], "model": "m"})
    assert body.changed({"model": "theirs"}) == b'{"tools":[' + orjson.dumps(schema) + b'],"model":"theirs"}'


def test_what_was_written_differently() -> None:
    """Bytes that another writer has made, with spaces, are read as well."""
    assert dict(Body.read(b'{ "a" : [1, 2] }')) == {"a": [1, 2]}


def test_missing() -> None:
    """A field that is not there raises, as in a dict; `get` gives None."""
    body = Body({"a": None})
    with pytest.raises(KeyError):
        body["b"]
    assert (body.get("a"), body.get("b"), "a" in body, "b" in body) == (None, None, True, False)
