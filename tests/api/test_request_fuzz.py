"""The way from a request to a `Generation`, with anything that can be sent: a generation or a 4xx, nothing else."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request
from gateway import settings
from hypothesis import given
from hypothesis import strategies as st

from server.api.access import OWNER, Owner
from server.api.requests import BODIES, cursor, idempotency_key, policy, read_json
from server.core.errors import Rejected
from server.core.openai.request import FIELDS
from server.dialects.chat.routes import completion
from server.streams.bodies import Bodies

SETTINGS = settings("http://127.0.0.1:1/v1")
MAX_BYTES = 10_000
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({}, optional={"role": ANY_JSON, "content": ANY_JSON, "name": ANY_JSON})
REQUEST_LIKE = st.fixed_dictionaries(
    {"model": st.text(min_size=1) | ANY_JSON, "messages": st.lists(MESSAGE | ANY_JSON, max_size=4) | ANY_JSON},
    optional=dict.fromkeys(FIELDS, ANY_JSON),
)


def post(body: bytes = b"", headers: dict[str, str] | None = None, query: str = "") -> web.Request:
    """A request whose body has come whole; aiohttp's own objects, without a socket."""
    loop = asyncio.get_running_loop()
    payload = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    payload.feed_data(body)
    payload.feed_eof()
    fields = {"Content-Type": "application/json", **(headers or {})}
    app = web.Application()
    app[BODIES] = Bodies(1_000_000)
    request = make_mocked_request("POST", f"/v1/chat/completions{query}", headers=fields, payload=payload, app=app)
    request[OWNER] = Owner("")
    return request


async def read(body: bytes) -> Any:
    """Read a body as the handler does; give the rejection where that is what it comes to."""
    try:
        return await read_json(post(body), MAX_BYTES)
    except Rejected as error:
        return error


def taken(take: Callable[[], Any]) -> Any:
    """Give what is made of a request, or the rejection, which can be sent."""
    try:
        return take()
    except Rejected as error:
        orjson.dumps(error.body())
        return error


@given(st.binary(max_size=200))
async def test_any_bytes(body: bytes) -> None:
    """Any bytes are a JSON object or a 400."""
    found = await read(body)
    assert isinstance(found, dict) or found.status == 400


@given(ANY_JSON)
async def test_any_json(value: Any) -> None:
    """Any JSON value is read as it was written, if it is an object, and 400 otherwise."""
    body = orjson.dumps(value)
    found = await read(body)
    if isinstance(value, dict):
        assert orjson.dumps(found) == body
    else:
        assert found.status == 400


@given(st.dictionaries(st.text(max_size=8), ANY_JSON, max_size=6) | REQUEST_LIKE)
async def test_any_object(body: dict[str, Any]) -> None:
    """Any values in any fields are taken or 400; what is taken makes a body for the upstream that says the same."""
    found = taken(lambda: completion(post(), body, SETTINGS))
    if isinstance(found, Rejected):
        assert found.status == 400
        return
    assert 1 <= found.choices <= 128
    sent = orjson.loads(found.upstream_body("other", ask_usage=True))
    said = orjson.loads(orjson.dumps(body))
    ours = {"model": "other", "stream_options": sent.get("stream_options")}
    assert sent == said | {name: value for name, value in ours.items() if name in sent}


@pytest.mark.parametrize("take", [cursor, idempotency_key, lambda request: policy(request, SETTINGS)])
@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=300))
async def test_any_header(take: Any, value: str) -> None:
    """Any value of the headers that mean something here is taken or 400."""
    headers = dict.fromkeys(("Last-Event-ID", "Idempotency-Key", "X-On-Disconnect"), value)
    found = taken(lambda: take(post(headers=headers)))
    assert not isinstance(found, Rejected) or found.status == 400
