"""A relay that is gone left a native log in the middle of a tool round; another one takes the stream up."""

import json
import time
from typing import Any

import internals
import native
import wire
from gateway import InProcess, in_process
from native import ALL, LOOK, call, ran

from server.core.ports import Decision, Failure
from server.core.records import Beginning, Record
from server.dialects.native.events import event
from server.recovery.strategies import Auto

START = event("start", stream_id="strm_left", model="m", target="local/m")
HM = event("token", content="Hm. ", token_count=1, timestamp=1)


def called(identity: str, name: str = "add", *, server: bool = True) -> Record:
    """Give the record of a call."""
    return event("tool_call", id=identity, name=name, arguments={"x": 1}, incomplete=False, server=server)


def answered(identity: str) -> Record:
    """Give the record of a result."""
    return event("tool_result", id=identity, name="add", content="2", duration_ms=1.0)


async def taken_over(gateway: InProcess, model: str, *records: Record, **fields: Any) -> list[native.Event]:
    """Leave a log of these records, let another relay take it up; return all events when it has ended."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say it."}], "stream": True, **fields}
    beginning = Beginning("strm_left", "", "native", model, time.time(), json.dumps(body).encode(), policy="continue")
    log = await gateway.app.store.create(beginning)
    await log.append(records)
    internals.takeover(gateway.app).begin(internals.live_streams(gateway.app).stream(log))
    found = native.decoded((await wire.call(gateway.root, "GET", "/v1/streams/strm_left")).events)
    assert [one.id for one in found] == list(range(1, len(found) + 1))
    return found


async def test_between_call_and_result(provider, model, marks) -> None:
    """A call without a result may have run: it is not run again, and the model is told that nobody knows."""
    await provider.script(model, {"text": "I see."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await taken_over(gateway, model, START, HM, called("a"), called("b"), answered("a"))
    assert native.types(found) == ["start", "token", "tool_call", "tool_result", "token", "done"]
    first, second = native.of(found, "tool_result")
    assert (first["id"], first["content"]) == ("a", "2")
    assert (second["id"], "whether it took effect is not known" in second["error"]) == ("b", True)
    assert ran(marks) == {}
    assert native.text(found) == "Hm. I see."
    assert found[-1].data["token_count"] == 3
    (request,) = await provider.seen(model)
    assert [message["role"] for message in request["body"]["messages"]] == ["user", "assistant", "tool", "tool"]
    assert request["body"]["messages"][2]["content"] == "2"


async def test_after_the_results(provider, model, marks) -> None:
    """With all results in the log the next round is asked for, and nothing is run."""
    await provider.script(model, {"text": "I see."})
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await taken_over(gateway, model, START, HM, called("a"), answered("a"))
    assert native.text(found) == "Hm. I see."
    assert ran(marks) == {}
    assert len((await provider.seen(model))[0]["body"]["messages"]) == 3


async def test_the_clients_turn(provider, model, marks) -> None:
    """A turn that had finished with calls of the client's ends with them: the model is not asked again."""
    async with in_process(provider.url, tools={"functions": ALL}) as gateway:
        found = await taken_over(gateway, model, START, called("a", "look", server=False), tools=[LOOK])
    assert native.types(found) == ["start", "tool_call", "done"]
    assert (found[-1].data["status"], found[-1].data["reason"]) == ("complete", "tool_calls")
    assert await provider.seen(model) == []


async def test_the_rounds_are_counted(provider, model, marks) -> None:
    """Rounds of the relay that is gone count against max_rounds."""
    await provider.script(model, {"tool_calls": [call("add", {"x": 1})]})
    async with in_process(provider.url, tools={"functions": ALL, "max_rounds": 2}) as gateway:
        found = await taken_over(gateway, model, START, called("a"), answered("a"))
    assert found[-1].data["reason"] == "too_many_tool_rounds"
    assert ran(marks) == {"add 1 1": 1}


async def test_a_takeover_is_no_recovery(provider, model, monkeypatch) -> None:
    """A strategy, the listing, the event and the metrics tell a takeover from a recovery; the one after it counts."""
    await provider.script(model, {"text": "Hm. I see all of it.", "cut_after": 3}, {"text": "Hm. I see all of it."})
    failures: list[Failure] = []
    counted: list[int] = []
    async with in_process(provider.url, recovery={"strategy": "auto", "backoff": 0.0}) as gateway:
        decide = Auto.decide

        def recording(self: Auto, failure: Failure) -> Decision:
            failures.append(failure)
            counted.extend(live.stream.view()["recoveries"] for live in internals.live_streams(gateway.app))
            return decide(self, failure)

        monkeypatch.setattr(Auto, "decide", recording)
        found = await taken_over(gateway, model, START, HM)
        state = (await wire.call(gateway.root, "GET", "/v1/streams")).json["data"][0]
        value = gateway.app.metrics.registry.get_sample_value
        labels = {"strategy": "restart", "outcome": "recovered"}
        metrics = [value(f"sluiceway_{name}_total", labels) for name in ("takeovers", "recoveries")]
    assert [(one.takeover, one.recoveries) for one in failures] == [(True, 0), (False, 0)]
    assert counted == [0, 0]
    events = native.of(found, "recovery")
    assert [(one["attempt"], one["reason"]) for one in events] == [(1, "takeover"), (2, "upstream_cut")]
    assert native.text(found) == "Hm. I see all of it."
    assert state["recoveries"] == 1
    assert metrics == [1, 1]
