"""A dialect that is nothing but a module and an entry point does all that a stream can do."""

import json
import os
import signal
from pathlib import Path

import pytest
import wire
from gateway import own_process

SUPPORT = Path(__file__).parents[1] / "support"
PIECES = [f"word{n}, " for n in range(40)]
RECOVERY = {"strategy": "auto", "backoff": 0.05}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Install the dialect as a distribution beside the gateway."""
    info = tmp_path / "plain-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sluiceway.dialects]\nplain = plain_dialect:Plain\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(SUPPORT)])}


def text(events: list[wire.Event]) -> str:
    """Give the whole text of events of this dialect, without the last one."""
    return "".join(json.loads(event.data) for event in events[:-1])


async def test_creates_and_recovers(provider, model, environ) -> None:
    """A stream is created, and after a cut restarted: one text, ids without a gap, the dialect's own ending."""
    await provider.script(model, {"pieces": PIECES, "cut_after": 7}, {"pieces": PIECES})
    async with own_process(provider.url, environ=environ, recovery=RECOVERY) as gateway:
        answer = await wire.call(gateway.root, "POST", "/plain", {"model": model, "prompt": "Say it."})
        state = await wire.call(
            gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}", headers={"Accept": "application/json"}
        )
    assert text(answer.events) == "".join(PIECES)
    assert [event.id for event in answer.events] == list(range(1, len(PIECES) + 2))
    assert answer.events[-1].data == b"stop"
    assert (state.json["state"], state.json["recoveries"]) == ("complete", 1)


async def test_is_taken_over(provider, model, environ, tmp_path: Path) -> None:
    """The gateway is killed in mid-stream: another one reads the log back, and goes on where the client was."""
    await provider.script(model, {"pieces": PIECES, "rate": 20}, {"pieces": PIECES})
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 1.0}
    tables = {"environ": environ, "store": store, "recovery": RECOVERY}
    async with own_process(provider.url, **tables) as gateway, wire.Client(gateway.root) as client:
        await client.ask("POST", "/plain", {"model": model, "prompt": "Say it."}, {"X-On-Disconnect": "continue"})
        _, headers = await client.head()
        before = await client.events(5)
        gateway.signal(signal.SIGKILL)
    path = f"/v1/streams/{headers['x-stream-id']}?after={before[-1].id}"
    async with own_process(provider.url, **tables) as gateway:
        answer = await wire.call(gateway.root, "GET", path)
    assert text(before + answer.events) == "".join(PIECES)
    assert [event.id for event in before + answer.events] == list(range(1, len(PIECES) + 2))


async def test_is_read_in_other_dialects(provider, model, environ) -> None:
    """It is read as a chat completion and natively, and a chat completion is read in it; ids are those of the log."""
    await provider.script(model, {"pieces": PIECES})
    async with own_process(provider.url, environ=environ) as gateway:
        mine = await wire.call(gateway.root, "POST", "/plain", {"model": model, "prompt": "Say it."})
        chat = await wire.complete(gateway.root, model)
        read = {
            name: await wire.call(gateway.root, "GET", f"/v1/streams/{mine.headers['x-stream-id']}?format={name}")
            for name in ("chat", "native")
        }
        plain = await wire.call(gateway.root, "GET", f"/v1/streams/{chat.headers['x-stream-id']}?format=plain")
    assert "".join(wire.texts(read["chat"].events)) == "".join(PIECES)
    assert read["chat"].events[-1].data == b"[DONE]"
    assert read["chat"].events[-1].id == mine.events[-1].id
    assert [event.event for event in read["native"].events[:2]] == ["start", "token"]
    assert read["native"].events[-1].event == "done"
    assert text(plain.events) == "".join(PIECES)
    assert plain.events[-1].data == b"stop"


async def test_its_errors_have_its_shape(provider, model, environ) -> None:
    """An error before the response opens is shown as the dialect says, ours and the upstream's."""
    await provider.script(model, {"status": 400, "error": {"message": "no such thing", "code": "nothing"}})
    models = [{"name": model, "targets": ["local/*"]}]
    async with own_process(provider.url, environ=environ, models=models) as gateway:
        theirs = await wire.call(gateway.root, "POST", "/plain", {"model": model, "prompt": "Say it."})
        ours = await wire.call(gateway.root, "POST", "/plain", {"model": "other", "prompt": "Say it."})
    assert (theirs.status, theirs.json) == (400, {"problem": "no such thing"})
    assert (ours.status, ours.json) == (404, {"problem": "The model `other` does not exist."})
