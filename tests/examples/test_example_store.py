"""The example of a store passes the contract, as every store has to, and serves a running gateway."""

import importlib

import pytest
import wire
from contract import StoreContract, beginning, ending
from gateway import own_process

from server.core.errors import StoreError
from server.core.records import Record


class TestFiles(StoreContract):
    """All of the contract, and what is its own."""

    @pytest.fixture(autouse=True)
    def _importable(self, installed, monkeypatch):
        monkeypatch.syspath_prepend(installed)

    def new(self, settings):
        return importlib.import_module("sluiceway_files").FileStore(settings)

    def tables(self, tmp_path):
        return {"path": str(tmp_path / "streams")}

    async def test_a_failed_write_adds_nothing(self, tmp_path, store):
        """The records before it stay, and the next append goes where it would have gone."""
        log = await store.create(beginning())
        await log.append([Record("chunk", b"one")])
        (tmp_path / "streams").rename(tmp_path / "away")
        assert await store.problem()
        with pytest.raises(StoreError):
            await log.append([Record("chunk", b"lost")])
        (tmp_path / "away").rename(tmp_path / "streams")
        assert await store.problem() is None
        await log.append([Record("done", b"two")], ending())
        assert [record.data for record in await log.read(0, 1000)] == [b"one", b"two"]

    async def test_files_go_with_their_logs(self, tmp_path, store):
        """The sweep deletes the file of a log whose retention is over."""
        log = await store.create(beginning())
        await log.append([Record("done", b"[DONE]")], ending())
        assert len(list((tmp_path / "streams").iterdir())) == 1
        await store.sweep(log.ending.at + self.retention)
        assert not list((tmp_path / "streams").iterdir())


async def test_a_gateway_keeps_its_streams_in_it(provider, installed, model, tmp_path) -> None:
    """Installed and named in the configuration, it holds what was said, and a reader comes back to it."""
    await provider.script(model, {"pieces": ["one ", "two ", "three "]})
    environ = {"PYTHONPATH": installed}
    store = {"kind": "files", "path": str(tmp_path / "streams")}
    async with own_process(provider.url, environ=environ, store=store) as gateway:
        whole = await wire.complete(gateway.root, model)
        assert "".join(wire.texts(whole.events)) == "one two three "
        identity = whole.headers["x-stream-id"]
        again = await wire.call(gateway.root, "GET", f"/v1/streams/{identity}", headers={"Last-Event-ID": "2"})
        assert again.events == whole.events[2:]
        data = (tmp_path / "streams" / identity).read_bytes()
        assert data == b"".join(event.data for event in whole.events)


async def test_without_the_package_the_name_is_refused(provider) -> None:
    """The gateway says which stores there are."""
    with pytest.raises(RuntimeError, match="memory"):
        async with own_process(provider.url, store={"kind": "files"}):
            raise AssertionError("it started")
