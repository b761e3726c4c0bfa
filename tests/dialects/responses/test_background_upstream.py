"""An upstream that goes on with a response after a cut is asked for the rest of it, and not for another one."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import internals
import pytest
import strict_responses
import wire
from background_upstream import EVERYTHING, PLAIN, TEXT, WHOLE, BackgroundUpstream, Reading
from gateway import InProcess, in_process
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.records import RUNNING, Beginning, Record
from server.core.wide_json import dumps

RECOVERY = {"strategy": "auto", "backoff": 0.001, "max_recoveries": 1000}
GONE = (400, 404, 405)


@asynccontextmanager
async def before(
    events: Sequence[dict[str, Any]], *readings: Reading, able: bool | None = True, **tables: Any
) -> AsyncIterator[tuple[InProcess, BackgroundUpstream]]:
    """Run an upstream with these events, and a gateway before it."""
    upstream_settings = {"api": "responses", **tables.pop("upstream", {})}
    recovery = {**RECOVERY, **tables.pop("recovery", {})}
    async with (
        BackgroundUpstream(events, *readings, able=able) as upstream,
        in_process(upstream.url, upstream=upstream_settings, recovery=recovery, **tables) as gateway,
    ):
        yield gateway, upstream


async def streamed(gateway: InProcess, **fields: Any) -> list[dict[str, Any]]:
    """Ask for a stream in the background; return its events, checked strictly."""
    body = {"model": "m", "input": "Say it.", "stream": True, "background": True, **fields}
    answer = await wire.call(gateway.root, "POST", "/v1/responses", body)
    assert answer.status == 200, answer.body
    return strict_responses.events(answer.events)


def told(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without what differs from one response to the next: its id and its times."""
    return [
        {**event, "response": {**event["response"], "id": "", "created_at": 0, "completed_at": 0}}
        if "response" in event
        else event
        for event in events
    ]


@pytest.fixture(scope="module")
def uncut() -> list[dict[str, Any]]:
    """What a client is told if nothing is cut."""

    async def run() -> list[dict[str, Any]]:
        async with before(EVERYTHING) as (gateway, _):
            return told(await streamed(gateway))

    return asyncio.run(run())


@pytest.mark.parametrize("part", [False, True])
async def test_every_cut(uncut, part: bool) -> None:
    """Wherever the connection breaks, also inside an event, the client's events are those of an uncut response."""
    for count in range(1, len(EVERYTHING)):
        async with before(EVERYTHING, Reading(count, part=part), WHOLE) as (gateway, upstream):
            assert told(await streamed(gateway)) == uncut, count
        assert upstream.resumed == [f"/v1/responses/resp_1?stream=true&starting_after={count - 1}"]
        assert upstream.paid == 1
        assert not upstream.cancelled.is_set()


@settings(max_examples=25)
@given(st.lists(st.builds(Reading, st.integers(1, 12), st.booleans(), repeated=st.integers(0, 40)), max_size=6))
def test_any_cuts(uncut, readings: list[Reading]) -> None:
    """However often the connection breaks, and whatever comes again, the client's events are those of an uncut one."""

    async def run() -> None:
        # What comes again is no progress, so each reading has as many events more.
        cut = [Reading(one.events + one.repeated, part=one.part, repeated=one.repeated) for one in readings]
        async with before(EVERYTHING, *cut, WHOLE) as (gateway, upstream):
            assert told(await streamed(gateway)) == uncut
        assert upstream.paid == 1

    asyncio.run(run())


# --- when it cannot be resumed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resumption",
    [
        *(pytest.param(Reading(status=status), id=str(status)) for status in GONE),
        pytest.param(Reading(skipped=1), id="an event is missing"),
        pytest.param(Reading(skipped=100), id="only [DONE]"),
        pytest.param(Reading(events=0, clean=True), id="nothing"),
        pytest.param(Reading(events=0), id="cut at once"),
        pytest.param(Reading(status=500), id="500"),
    ],
)
async def test_not_resumed(resumption: Reading) -> None:
    """If the rest cannot be had, the answer is asked for anew: one text, and the first response is cancelled."""
    readings = [Reading(9), *[resumption] * 3]
    restart = {"max_retries": 2, "max_recoveries": 1}
    asks = 1 if resumption.status in GONE or resumption.skipped else 3
    async with before(PLAIN, *readings[: asks + 1], WHOLE, recovery=restart) as (gateway, upstream):
        found = await streamed(gateway)
        assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
        assert found[-1]["response"]["status"] == "completed"
        assert (upstream.paid, len(upstream.resumed)) == (2, asks)
        async with asyncio.timeout(10):
            await upstream.cancelled.wait()
        assert await counted(gateway, strategy="resume") == {"failed": asks}
        assert await counted(gateway, strategy="restart") == {"recovered": 1}
    assert [asked.path for asked in upstream.asked if asked.path.endswith("cancel")] == ["/v1/responses/resp_1/cancel"]


async def counted(gateway: InProcess, strategy: str) -> dict[str, float]:
    """Give the recoveries of a strategy by their outcome."""
    outcomes = ("recovered", "failed", "diverged", "stopped")
    registry = gateway.app.metrics.registry
    samples = {
        outcome: registry.get_sample_value(
            "sluiceway_recoveries_total", {"strategy": strategy, "outcome": outcome}
        )
        for outcome in outcomes
    }  # fmt: skip
    return {outcome: count for outcome, count in samples.items() if count}


async def test_a_passing_refusal() -> None:
    """An upstream that cannot be reached for a moment is asked for the rest again: it is one recovery."""
    refused = Reading(status=503)
    async with before(PLAIN, Reading(9), refused, refused, WHOLE) as (gateway, upstream):
        found = await streamed(gateway)
        state = await wire.call(
            gateway.root, "GET", f"/v1/streams/{found[0]['response']['id']}", headers={"Accept": "application/json"}
        )
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    assert (upstream.paid, len(upstream.resumed)) == (1, 3)
    assert state.json["recoveries"] == 1


async def test_before_the_first_token() -> None:
    """A response whose connection breaks before it says anything is resumed, too, and that is no recovery."""
    async with before(PLAIN, Reading(4), Reading(1), WHOLE) as (gateway, upstream):
        found = await streamed(gateway)
        assert await counted(gateway, strategy="resume") == {}
    assert upstream.resumed == [
        "/v1/responses/resp_1?stream=true&starting_after=3", "/v1/responses/resp_1?stream=true&starting_after=4"
    ]  # fmt: skip
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT


async def test_numbers_with_gaps() -> None:
    """An upstream whose events are not numbered one by one is not asked for the rest."""
    events = [{**event, "sequence_number": 2 * event["sequence_number"]} for event in PLAIN]
    async with before(events, Reading(9), WHOLE) as (gateway, upstream):
        found = await streamed(gateway)
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    assert (upstream.paid, upstream.resumed) == (2, [])


async def test_the_budget() -> None:
    """A response that breaks off again and again uses the recoveries up, and is cancelled."""
    async with before(PLAIN, Reading(6), *[Reading(1)] * 10, recovery={"max_recoveries": 3}) as (gateway, upstream):
        found = await streamed(gateway)
        assert found[-1]["response"]["status"] == "failed"
        async with asyncio.timeout(10):
            await upstream.cancelled.wait()
    assert (upstream.paid, len(upstream.resumed)) == (1, 3)


# --- what is asked of the upstream ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "fields", "asks"),
    [
        ("asked", {"background": True}, True),
        ("asked", {"background": False}, False),
        ("always", {"background": False}, True),
        ("always", {"background": False, "store": False}, False),
        ("never", {"background": True}, False),
    ],
)
async def test_when_it_is_asked_for(when: str, fields: dict[str, Any], asks: bool) -> None:
    """A response is stored at its upstream for a client that asks for the background, or if the operator says so."""
    async with before(PLAIN, upstream={"background": when}) as (gateway, upstream):
        await streamed(gateway, **fields)
    sent = upstream.asked[0].body
    assert (sent.get("background"), sent.get("store")) == ((True, True) if asks else (None, fields.get("store")))


@pytest.mark.parametrize("able", [False, None])
async def test_an_upstream_without_it(able: bool | None) -> None:
    """An upstream that refuses `background` is asked without it, and not again; one that ignores it is restarted."""
    async with before(PLAIN, Reading(9), WHOLE, able=able) as (gateway, upstream):
        for _ in range(2):
            found = await streamed(gateway)
            assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    sent = [asked.body.get("background") for asked in upstream.asked]
    assert sent == ([True, None, None, None] if able is False else [True, True, True])
    assert upstream.resumed == []


async def test_a_client_of_chat_completions() -> None:
    """With "always" any client's stream is resumed. Its text, its calls and its usage come once."""
    for count in (4, 17, 25, 28, len(EVERYTHING) - 1):
        async with before(EVERYTHING, Reading(count), WHOLE, upstream={"background": "always"}) as (gateway, upstream):
            answer = await wire.complete(gateway.root, "m", stream_options={"include_usage": True})
        chunks = [json.loads(event.data) for event in answer.events if event.data != b"[DONE]"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == TEXT
        arguments = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
        assert "".join(arguments) == '{"at":"here"}{}'
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")] == [11]
        assert (upstream.paid, len(upstream.resumed)) == (1, 1)


async def test_a_native_client() -> None:
    """The `recovery` event says what happened, and calls that broke off come whole."""
    async with before(EVERYTHING, Reading(25), WHOLE, upstream={"background": "always"}) as (gateway, upstream):
        answer = await wire.call(gateway.root, "POST", "/api/stream", {"model": "m", "prompt": "Say it."})
    told_events = [(event.event, json.loads(event.data)) for event in answer.events]
    [recovery] = [data for name, data in told_events if name == "recovery"]
    assert {**recovery, "type": None} == {
        "type": None, "attempt": 1, "strategy": "resume", "target": "local/m", "reason": "upstream_cut", "exact": True
    }  # fmt: skip
    assert [data["arguments"] for name, data in told_events if name == "tool_call"] == [{"at": "here"}, {}]
    assert "".join(data["content"] for name, data in told_events if name == "token") == TEXT
    assert told_events[-1][1]["usage"]["completion_tokens"] == 11
    assert upstream.paid == 1


async def test_it_is_billed_once(capsys) -> None:
    """The log line has one answer, with the upstream's own count."""
    async with before(PLAIN, Reading(9), Reading(1), WHOLE) as (gateway, _):
        await streamed(gateway)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "stream ended" in line]
    assert "'completion_tokens': 11, 'total_tokens': 14" in line
    assert "'attempts': 1, 'measured': True" in line
    assert "recoveries=2" in line


# --- when nobody wants it any more -----------------------------------------------------------------------------------


async def cancelled(upstream: BackgroundUpstream) -> list[str]:
    """Wait until the upstream was told; return the requests for that."""
    async with asyncio.timeout(10):
        await upstream.cancelled.wait()
    return [asked.path for asked in upstream.asked if asked.path.endswith("/cancel")]


@pytest.mark.parametrize("how", ["cancel", "abort", "leave", "time"])
@pytest.mark.parametrize("count", [2, 9])
async def test_nobody_wants_it(how: str, count: int) -> None:
    """Cancelled, aborted, left or out of time, before the first token or after: the upstream is told, too."""
    tables: dict[str, Any] = {"streams": {"total_timeout": 0.5}} if how == "time" else {}
    silent = Reading(count, silent=True)
    async with (
        before(PLAIN, silent, upstream={"background": "always"}, **tables) as (gateway, upstream),
        wire.Client(gateway.root) as client,
    ):
        body = {"model": "m", "input": "Say it.", "stream": True, "background": how in ("cancel", "time")}
        await client.ask("POST", "/v1/responses", body)
        async with asyncio.timeout(10):
            await upstream.silent.wait()
        (one,) = (await wire.call(gateway.root, "GET", "/v1/streams")).json["data"]
        if how == "cancel":
            await wire.call(gateway.root, "POST", f"/v1/responses/{one['id']}/cancel", {})
        elif how == "abort":
            await wire.call(gateway.root, "DELETE", f"/v1/streams/{one['id']}")
        elif how == "leave":
            client.leave()
        assert await cancelled(upstream) == ["/v1/responses/resp_1/cancel"]
        await gateway.idle()
    assert upstream.paid == 1


async def test_another_target_answers() -> None:
    """A target that lost to another one, in a race or after a silence, is told to stop."""
    for recovery in ({"hedge_after": 0.05}, {"strategy": "auto"}):
        async with (
            BackgroundUpstream(PLAIN, Reading(2, silent=True)) as slow,
            BackgroundUpstream(PLAIN) as quick,
            in_process(
                slow.url,
                upstreams=[
                    {"name": "a", "base_url": slow.url, "api": "responses", "ttft_timeout": 0.5},
                    {"name": "b", "base_url": quick.url, "api": "responses"},
                ],
                models=[{"name": "m", "targets": ["a/m", "b/m"]}],
                recovery=recovery,
            ) as gateway,
        ):
            found = await streamed(gateway)
            assert found[-1]["response"]["status"] == "completed"
            assert await cancelled(slow) == ["/v1/responses/resp_1/cancel"]
        assert not quick.cancelled.is_set()


async def test_the_upstream_is_away() -> None:
    """An upstream that answers no request to cancel delays nobody."""
    silent = Reading(9, silent=True)
    async with before(PLAIN, silent) as (gateway, upstream):
        body = {"model": "m", "input": "Say it.", "background": True}
        identity = (await wire.call(gateway.root, "POST", "/v1/responses", body)).json["id"]
        async with asyncio.timeout(10):
            await upstream.silent.wait()
        await upstream.stop_listening()
        again = await wire.call(gateway.root, "POST", f"/v1/responses/{identity}/cancel", {})
        assert (again.status, again.json["status"]) == (200, "cancelled")


# --- another relay goes on -----------------------------------------------------------------------------------------


async def test_taken_over_at_every_record() -> None:
    """Another relay reads the answer again from its upstream, and joins it to what was told; the client sees one."""
    async with before(PLAIN) as (gateway, _):
        answer = await wire.call(
            gateway.root, "POST", "/v1/responses", {"model": "m", "input": "x", "stream": True, "background": True}
        )
    records = [Record(event.event or "done", event.data) for event in answer.events]
    whole = [json.loads(record.data) for record in records[:-1]]
    first = next(count for count, event in enumerate(whole, 1) if "delta" in event)  # is logged with what is before it
    for count in (0, 2, *range(first, len(records) - 1)):
        async with before(PLAIN) as (gateway, upstream):
            found = await taken_over(gateway, answer.headers["x-stream-id"], records[:count], "resp_77")
        assert [event["type"] for event in found] == [event["type"] for event in whole]
        assert found[-1]["response"]["output"] == whole[-1]["response"]["output"]
        assert upstream.paid == 0
        assert upstream.resumed == ["/v1/responses/resp_77?stream=true"]


async def test_a_takeover_without_a_rest() -> None:
    """If the upstream does not know the answer any more, it is asked for anew."""
    async with before(PLAIN) as (gateway, _):
        answer = await wire.call(gateway.root, "POST", "/v1/responses", {"model": "m", "input": "x", "stream": True})
    records = [Record(event.event or "done", event.data) for event in answer.events]
    for count in (0, 2, 7):
        async with before(PLAIN, Reading(status=404), WHOLE) as (gateway, upstream):
            found = await taken_over(gateway, answer.headers["x-stream-id"], records[:count], "resp_77")
        assert found[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
        assert (upstream.paid, len(upstream.resumed)) == (1, 1)


async def taken_over(
    gateway: InProcess, stream_id: str, records: Sequence[Record], running: str
) -> list[dict[str, Any]]:
    """Leave a log of these records and of an answer that goes on, and let another relay take it up; read it all."""
    body = dumps({"model": "m", "input": "x", "stream": True, "background": True})
    beginning = Beginning(stream_id, "", "responses", "m", time.time(), body, policy="continue")
    log = await gateway.app.store.create(beginning)
    log.target = f"local/m{RUNNING}{running}"
    await log.append(records)
    internals.takeover(gateway.app).begin(internals.live_streams(gateway.app).stream(log))
    return strict_responses.events((await wire.call(gateway.root, "GET", f"/v1/streams/{stream_id}")).events)
