"""Targets, their limits and their circuits."""

import internals
import pytest

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


OWN = {"ttft_timeout": 120.0, "idle_timeout": 45.0, "last_resort_timeout": 900.0}


@pytest.mark.parametrize("own", [{}, *({key: value} for key, value in OWN.items()), OWN])
async def test_a_model_may_have_limits_of_its_own(own: dict[str, float]):
    """Each limit of a target is that of its model if the model has one, else that of its upstream."""
    of_upstream = {"ttft_timeout": 1.0, "idle_timeout": 2.0, "last_resort_timeout": 3.0}
    tree = {
        "upstreams": [{"name": "u", "base_url": "http://127.0.0.1:1/v1", **of_upstream}],
        "models": [{"name": "slow", "targets": ["u/a"], **own}, {"name": "*", "targets": ["u/a"]}],
    }
    settings = parse(tree, {})
    upstreams = Upstreams(settings, {})
    await upstreams.open()
    slow, other = (upstreams.route(model, "m")[0] for model in settings.models)
    assert {key: getattr(slow, key) for key in OWN} == of_upstream | own
    assert {key: getattr(other, key) for key in OWN} == of_upstream
    await upstreams.close()


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
