"""The Grafana dashboard's queries, asked of a real Prometheus that scrapes a gateway with traffic and failures."""

import asyncio
import json
import math
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import wire
from gateway import own_process
from ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "sluiceway.json").read_text())
# What Grafana puts in; its $__rate_interval is at least four scrapes.
VARIABLES = {"$__rate_interval": "30s", "$instance": ".*"}
SCRAPE = 0.5  # seconds


def queries() -> dict[str, str]:
    """Give every query by its panel and letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }


class Prometheus:
    """A running server; `ask` gives the samples of a query."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self._session = session
        self._root = root

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        """Run one query. Raises AssertionError where Prometheus refuses it."""
        async with self._session.get(f"{self._root}/api/v1/query", params={"query": expression}) as answer:
            said = await answer.json()
        assert said["status"] == "success", said
        return said["data"]["result"]

    async def scraped(self) -> None:
        """Wait for two scrapes that began after this moment."""
        now = time.time()
        async with asyncio.timeout(30):
            while True:
                last = await self.ask("timestamp(up)")
                if last and float(last[0]["value"][1]) > now + 2 * SCRAPE:
                    return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Run Debian's Prometheus with deploy/prometheus.yml, for one gateway and with shorter intervals."""
    config = (DEPLOY / "prometheus.yml").read_text()
    for ours, here in (("10s", f"{SCRAPE * 1000:.0f}ms"), ('["127.0.0.1:8080", "127.0.0.1:8081"]', f'["{target}"]')):
        assert ours in config
        config = config.replace(ours, here)
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(60):
                while not await _ready(session, f"http://127.0.0.1:{port}/-/ready"):
                    assert process.poll() is None, (folder / "log").read_text()
                    await asyncio.sleep(0.1)
            yield Prometheus(session, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def traffic(provider, root: str, model: str) -> None:
    """Make one stream of each kind that the dashboard tells apart."""
    await provider.script(model, {"rate": 100})
    await provider.script(f"{model}-cut", {"cut_after": 7}, {})
    await provider.script(f"{model}-down", {"status": 500})
    await provider.script(f"{model}-long", {"tokens": 2000, "rate": 50})
    await provider.script(f"{model}-flood", {"tokens": 20000})
    assert (await wire.complete(root, model)).status == 200
    assert (await wire.complete(root, f"{model}-cut")).events[-1].data == b"[DONE]"
    assert (await wire.complete(root, f"{model}-down")).status == 500
    # This upstream has no embeddings, which it says.
    assert (await wire.call(root, "POST", "/v1/embeddings", {"model": model, "input": "a"})).status == 404
    async with wire.Client(root) as leaving:
        await leaving.complete(f"{model}-long")
        await leaving.head()
    await asyncio.to_thread(_read_slowly, root, f"{model}-flood")


def _read_slowly(root: str, model: str) -> None:
    """Read the whole answer, after having let the gateway wait for half a second."""
    host, port = root.removeprefix("http://").split(":")
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Go on."}]})
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        received = sock.recv(1000)
        time.sleep(0.5)
        while data := sock.recv(65536):
            received = received[-100:] + data
    assert b"[DONE]" in received


@pytest.mark.timeout(180)
async def test_every_query_has_data(provider, model, tmp_path) -> None:
    """After traffic with failures, a recovery, a client that left and one that was slow, no panel is empty."""
    recovery = {"strategy": "restart", "max_retries": 1, "backoff": 0.01, "breaker_failures": 1000}
    async with (
        own_process(provider.url, recovery=recovery) as gateway,
        prometheus(f"127.0.0.1:{gateway.port}", tmp_path) as server,
    ):
        for _ in range(2):  # a rate is the difference of two scrapes
            await traffic(provider, gateway.root, model)
            await server.scraped()
        empty, wrong = [], []
        for name, expression in queries().items():
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)  # noqa: PLW2901
            assert "$" not in expression, f"{name}: {expression}"
            found = await server.ask(expression)
            values = [float(one["value"][1]) for one in found]
            if not values:
                empty.append(name)
            elif not all(math.isfinite(value) and value >= 0 for value in values):
                wrong.append((name, found))
        failed = await server.ask('sum(sluiceway_streams_total{status="failed"})')
    assert (empty, wrong) == ([], [])
    assert float(failed[0]["value"][1]) == 2


async def test_every_metric_is_shown(provider, model) -> None:
    """Every metric of the gateway is on the dashboard and in docs/observability.md."""
    async with own_process(provider.url) as gateway:
        body = (await wire.call(gateway.root, "GET", "/metrics")).body.decode()
    names = {name for name in re.findall(r"^# TYPE (sluiceway_\w+) ", body, re.MULTILINE) if "_created" not in name}
    shown = set(re.findall(r"(?:sluiceway|process)_\w+", " ".join(queries().values())))
    told = (DEPLOY.parent / "docs" / "observability.md").read_text()
    assert {name for name in names if name not in shown and f"{name}_bucket" not in shown} == set()
    assert {name for name in names if f"`{name}" not in told} == set()


def test_panels_do_not_overlap() -> None:
    """Every panel has an id and a place of its own, within the 24 columns."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
