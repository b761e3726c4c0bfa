"""Strategies of a third party: a distribution that pip installs beside the gateway, found by its entry points."""

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from contextlib import asynccontextmanager

import pytest
from gateway import own_process
from wire import complete, texts

WHEEL = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
METADATA = "Metadata-Version: 2.1\nName: their-recovery\nVersion: 1.0\n"
MODULE = '''
"""Strategies by somebody who has read server/core/ports.py."""

from server.core.ports import Continue, GiveUp, Restart, Retry


class NextTarget:
    """Never the same target twice."""

    def decide(self, failure):
        fresh = [index for index, target in enumerate(failure.targets) if target.attempts == 0]
        return Restart(fresh[0]) if fresh else GiveUp()


class Raises:
    def decide(self, failure):
        raise RuntimeError("a bug of theirs")


class NoDecision:
    def decide(self, failure):
        return "retry, please"


class NoTarget:
    def decide(self, failure):
        return Restart(99)


class NoTime:
    def decide(self, failure):
        return Retry(float("inf"))


class BackInTime:
    def decide(self, failure):
        return Retry(-1.0)


class Eternal:
    def decide(self, failure):
        return Retry(0.0)


class CannotContinue:
    def decide(self, failure):
        return Continue(failure.target)
'''
NAMES = ["NextTarget", "Raises", "NoDecision", "NoTarget", "NoTime", "BackInTime", "Eternal", "CannotContinue"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the distribution into a folder of its own; return it, for PYTHONPATH."""
    wheel = tmp_path_factory.mktemp("wheel") / "their_recovery-1.0-py3-none-any.whl"
    target = tmp_path_factory.mktemp("installed")
    points = "\n".join(f"{name} = their_recovery:{name}" for name in NAMES)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("their_recovery.py", MODULE)
        archive.writestr("their_recovery-1.0.dist-info/METADATA", METADATA)
        archive.writestr("their_recovery-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("their_recovery-1.0.dist-info/entry_points.txt", f"[sluiceway.recovery]\n{points}\n")
        archive.writestr("their_recovery-1.0.dist-info/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, timeout=100)
    return str(target)


@asynccontextmanager
async def gateway(provider, installed, model, strategy):
    """Run a gateway in its own process with one of their strategies and two targets."""
    names = ("one", "two")
    upstreams = [{"name": name, "base_url": provider.url} for name in names]
    models = [{"name": model, "targets": [f"{name}/{model}-{name}" for name in names]}]
    environ = {"PYTHONPATH": os.pathsep.join([installed, os.environ.get("PYTHONPATH", "")])}
    recovery = {"strategy": strategy, "breaker_failures": 100}
    async with own_process(
        provider.url, environ=environ, recovery=recovery, upstreams=upstreams, models=models
    ) as running:
        yield running


async def test_decides(provider, installed, model) -> None:
    """The decisions of a strategy are carried out: the next target is asked at once, before content and after it."""
    await provider.script(f"{model}-one", {"status": 500}, {"cut_after": 7})
    async with gateway(provider, installed, model, "NextTarget") as running:
        for _ in range(2):
            answer = await complete(running.root, model)
            assert "".join(texts(answer.events)) == "".join(f"tok{i} " for i in range(20))
            assert answer.events[-1].data == b"[DONE]"
    assert len(await provider.seen(f"{model}-one")) == len(await provider.seen(f"{model}-two")) == 2


@pytest.mark.parametrize("strategy", NAMES[1:])
async def test_nonsense_ends_the_stream(provider, installed, model, strategy) -> None:
    """A strategy that raises, or decides what cannot be done, is logged, and the stream ends with its first error."""
    await provider.script(f"{model}-one", {"status": 503}, {"status": 503}, {"status": 503}, {"cut_after": 7})
    async with gateway(provider, installed, model, strategy) as running, asyncio.timeout(15):
        answer = await complete(running.root, model)
        early = len(await provider.seen(f"{model}-one"))
        while len(await provider.seen(f"{model}-one")) < 3:
            await complete(running.root, model)
        late = await complete(running.root, model)
        assert running.logged("strategy failed")
        assert running.process.poll() is None
    assert (answer.status, answer.error["type"]) == (503, "scripted_error")
    assert early <= 3
    assert json.loads(late.events[-1].data)["error"]["code"] == "upstream_cut"
    told = "".join(texts(late.events[:-1]))
    assert told == "".join(f"tok{i} " for i in range(20))[: len(told)]
    assert not await provider.seen(f"{model}-two")
