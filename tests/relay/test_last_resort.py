"""Where no other target is left to ask, an attempt has `last_resort_timeout`: giving up early would help nobody."""

import asyncio

import pytest
from raw_upstream import CHUNK, HELLO, RawUpstream, gateway_over
from wire import complete, texts

from server.config.check import parse
from server.config.settings import Streams, Upstream
from server.core.errors import Kind, UpstreamError
from server.relay.tries import Tries
from server.upstreams.breaker import Fault
from server.upstreams.pool import Upstreams

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ONE = CHUNK + b'"delta":{"content":"he"}}]}\n\n'
REST = CHUNK + b'"delta":{"content":"llo"}}]}\n\n' + CHUNK + b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LIMITS = {"ttft_timeout": 0.3, "idle_timeout": 0.3, "last_resort_timeout": 30.0}
LONGER = 1.2  # seconds: four times these limits


class Thinking(RawUpstream):
    """Says `opening`, thinks silently for `LONGER`, and says the rest."""

    def __init__(self, opening: bytes = SSE, rest: bytes = ONE + REST) -> None:
        super().__init__(opening)
        self._rest = rest

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await super().serve(reader, writer)
        await asyncio.sleep(LONGER)
        writer.write(self._rest)


REFUSAL = b"HTTP/1.1 401 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SINGLE = {
    "no head": (Thinking(b"", SSE + ONE + REST), {}),
    "no token": (Thinking(), {}),
    "a role": (Thinking(SSE + CHUNK + b'"delta":{"role":"assistant","content":""}}]}\n\n'), {}),
    "in the middle": (Thinking(SSE + ONE, REST), {}),
    "without recovery": (Thinking(SSE + ONE, REST), {"strategy": "none"}),
    "with retries alone": (Thinking(SSE + ONE, REST), {"strategy": "retry"}),
}


@pytest.mark.parametrize("what", SINGLE)
async def test_single_target(what) -> None:
    """A single target may think for longer than its limits, before the first token and after it."""
    upstream, recovery = SINGLE[what]
    upstream.bodies.clear()
    flow = {"early_open_after": 0.0}
    async with gateway_over(upstream, settings=LIMITS, recovery=recovery, flow=flow) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, "".join(texts(answer.events))) == (200, "hello")
    assert len(upstream.bodies) == 1


async def test_another_target() -> None:
    """While another target could be asked, the limits are the short ones."""
    a, b = Thinking(), RawUpstream(HELLO)
    async with gateway_over(a, b, settings=LIMITS) as gateway:
        answer = await complete(gateway.root, "m")
    assert answer.headers["x-sluiceway-target"] == "b/m"
    assert (len(a.bodies), len(b.bodies)) == (1, 1)


async def test_the_others_are_of_no_use() -> None:
    """A target that refused is not left: the other one gets the time."""
    a, b = RawUpstream(REFUSAL), Thinking()
    async with gateway_over(a, b, settings=LIMITS) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, "".join(texts(answer.events))) == (200, "hello")
    assert (len(a.bodies), len(b.bodies)) == (1, 1)


@pytest.mark.parametrize(
    "recovery",
    [{"max_recoveries": 0}, {"strategy": "retry"}, {"strategy": "none"}],
    ids=lambda table: str(*table.items()),
)
async def test_no_other_attempt_is_allowed(recovery) -> None:
    """After content that no other attempt may join, the target gets the time although others are there."""
    a, b = Thinking(SSE + ONE, REST), RawUpstream(HELLO)
    async with gateway_over(a, b, settings=LIMITS, recovery=recovery) as gateway:
        answer = await complete(gateway.root, "m")
    assert "".join(texts(answer.events)) == "hello"
    assert (len(a.bodies), len(b.bodies)) == (1, 0)


async def test_after_a_tool_call() -> None:
    """A client may have acted on a call, so nobody else is asked: the target gets the time."""
    call = CHUNK + b'"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}]}}]}\n\n'
    a, b = Thinking(SSE + call, REST), RawUpstream(HELLO)
    async with gateway_over(a, b, settings=LIMITS) as gateway:
        answer = await complete(gateway.root, "m")
    assert answer.events[-1].data == b"[DONE]"
    assert (len(a.bodies), len(b.bodies)) == (1, 0)


async def test_it_has_an_end() -> None:
    """A target that says nothing until `last_resort_timeout` is given up."""
    limits = {**LIMITS, "last_resort_timeout": 0.5}
    async with gateway_over(RawUpstream(None), settings=limits, recovery={"max_retries": 0}) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.error["code"]) == (504, "upstream_ttft_timeout")


# --- whether anybody is left ------------------------------------------------------------------------------------------

LEFT = {
    "it was not asked": ([], False),
    "it failed once": ([Kind.OVERLOADED], False),
    "it was silent": ([Kind.TTFT_TIMEOUT], False),
    "it could not be connected": ([Kind.CONNECT_TIMEOUT], False),
    "it had all its attempts": ([Kind.OVERLOADED] * 3, True),
    "it refused the key": ([Kind.AUTH], True),
    "its context is too short": ([Kind.CONTEXT_LENGTH], True),
}


@pytest.mark.parametrize("what", LEFT)
async def test_is_last(what) -> None:
    """A target is left to ask if it has attempts left that may help."""
    failures, last = LEFT[what]
    tries = await _tries()
    for kind in failures:
        tries.begin(1)
        tries.fail(1, UpstreamError(kind, "no"))
    assert tries.is_last(0, max_retries=2) is last
    assert not tries.is_last(1, max_retries=2)


async def test_is_last_while_a_circuit_is_open() -> None:
    """A target whose circuit is open is not left."""
    tries = await _tries()
    for number in range(5):
        permit = tries[1].breaker.acquire()
        assert permit is not None
        permit.settle(ok=False, fault=Fault("x", str(number), "me"))
    assert tries.is_last(0, max_retries=2)


async def _tries() -> Tries:
    upstreams = [{"name": name, "base_url": "http://127.0.0.1:9/v1"} for name in "ab"]
    tree = {"upstreams": upstreams, "models": [{"name": "m", "targets": ["a/m", "b/m"]}]}
    settings = parse(tree, {})
    pool = Upstreams(settings, {})
    await pool.open()
    tries = Tries(pool.route(settings.models[0], "m"))
    await pool.close()
    return tries


def test_defaults() -> None:
    """By default a model may think for five minutes on a single upstream, and a stream may take an hour."""
    limits = Upstream(name="u", base_url="http://127.0.0.1/v1")
    assert (limits.ttft_timeout, limits.idle_timeout, limits.last_resort_timeout) == (30.0, 30.0, 300.0)
    assert Streams().total_timeout == 3600.0
