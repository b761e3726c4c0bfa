"""Targets and their circuits."""

import internals

from server.config.check import parse
from server.upstreams import pool
from server.upstreams.pool import Upstreams


async def wildcard() -> Upstreams:
    """Upstreams with one target that takes any name."""
    tree = {
        "upstreams": [{"name": "u", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"name": "*", "targets": ["u/*"]}],
        "recovery": {"breaker_failures": 1},
    }
    upstreams = Upstreams(parse(tree, {}), {})
    await upstreams.open()
    return upstreams


def fail(upstreams: Upstreams, model: str) -> None:
    """Fail one request for a model."""
    permit = ask(upstreams, model).breaker.acquire()
    assert permit is not None
    permit.settle(ok=False)


def ask(upstreams: Upstreams, model: str) -> pool.Target:
    """The one target for a model's name."""
    return upstreams.route(internals.first_model(upstreams), model)[0]


async def test_models_behind_a_wildcard_have_circuits_of_their_own():
    """A bad model behind "upstream/*" does not open the circuits of the others. The target shows its worst circuit."""
    upstreams = await wildcard()
    assert ask(upstreams, "good").breaker.available
    fail(upstreams, "bad")
    assert not ask(upstreams, "bad").breaker.available
    assert ask(upstreams, "good").breaker.available
    assert upstreams.circuits == {"u/*": "open"}
    await upstreams.close()


async def test_clients_cannot_grow_the_circuits(monkeypatch):
    """However many names clients make up, a bounded number of circuits is kept: those used last."""
    monkeypatch.setattr(pool, "MAX_CIRCUITS", 3)
    upstreams = await wildcard()
    fail(upstreams, "kept")
    for index in range(20):
        ask(upstreams, f"model-{index}")
        assert not ask(upstreams, "kept").breaker.available
    assert len(internals.circuits(upstreams, "u/*")) == 3
    await upstreams.close()
