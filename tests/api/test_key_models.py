"""`[[keys]] models`: what a key may ask for, on every path that takes a model. All else does not exist for it."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway import InProcess, in_process, settings
from provider import Provider
from wire import call, completion

from server.config.check import parse
from server.config.rules import between_keys

KEYS = {"all": ["*"], "small": ["small"], "family": ["gpt-*", "small"], "nothing": []}


def key(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


@pytest.fixture
async def gateway(provider: Provider, model: str) -> AsyncIterator[InProcess]:
    """Three models that answer, and a key for each row of `KEYS`."""
    names = ("small", "large", "gpt-*")
    models = [{"name": name, "targets": [f"local/{model}"]} for name in names]
    keys = [key("default"), *(key(name, models=own) for name, own in KEYS.items())]
    async with in_process(provider.url, models=models, keys=keys) as running:
        yield running


MAY = [
    ("default", "large", True), ("all", "large", True), ("all", "gpt-x", True),
    ("small", "small", True), ("small", "large", False), ("small", "gpt-x", False), ("small", "Small", False),
    ("family", "gpt-x", True), ("family", "small", True), ("family", "large", False), ("family", "xgpt-x", False),
    ("nothing", "small", False), ("nothing", "*", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model_name", "may"), MAY)
async def test_every_path(gateway: InProcess, name: str, model_name: str, may: bool) -> None:
    """On each path a key gets an answer of its own models. Any other is 404, like one that does not exist."""
    unknown = await call(gateway.root, "POST", "/v1/chat/completions", completion("no-such"), bearer("all"))
    body = completion(model_name)
    for path in ("/v1/chat/completions", "/api/stream", "/v1/embeddings", "/v1/images/generations", "/v1/audio/speech"):
        answer = await call(gateway.root, "POST", path, body, bearer(name))
        if may and path in ("/v1/chat/completions", "/api/stream"):
            assert answer.status == 200
        elif may:  # this upstream has no such path, but it was asked
            assert answer.error["upstream"]["name"] == "local"
        else:
            assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
            assert answer.error["message"] == unknown.error["message"].replace("no-such", model_name)
    if "*" not in model_name and not model_name.startswith("gpt"):
        shown = await call(gateway.root, "GET", f"/v1/models/{model_name}", headers=bearer(name))
        assert shown.status == (200 if may else 404)


async def test_lists(gateway: InProcess, model: str) -> None:
    """A key's list of models has what it may ask for, and nothing else."""
    lists = {}
    for name in ("default", *KEYS):
        answer = await call(gateway.root, "GET", "/v1/models", headers=bearer(name))
        lists[name] = [one["id"] for one in answer.json["data"]]
    assert lists == {
        "default": ["small", "large"], "all": ["small", "large"], "small": ["small"], "family": ["small"], "nothing": []
    }  # fmt: skip


async def test_the_only_model(gateway: InProcess) -> None:
    """A native request need not name the only model of its key. An error names no model of others."""
    body = {"prompt": "Hi"}
    assert (await call(gateway.root, "POST", "/api/stream", body, bearer("small"))).status == 200
    refused = await call(gateway.root, "POST", "/api/stream", body, bearer("family"))
    assert (refused.status, refused.error["param"]) == (400, "model")
    nothing = await call(gateway.root, "POST", "/api/stream", body, bearer("nothing"))
    assert nothing.status == 400
    assert "small" not in nothing.error["message"]


def test_a_name_that_means_nothing() -> None:
    """A name that no model has is a warning of `sluiceway check`. A pattern may mean what an upstream lists."""
    tree = {
        "models": [{"name": "small", "targets": ["a/b"]}, {"name": "gpt-*", "targets": ["a/*"]}],
        "keys": [key("web", models=["small", "gpt-4", "smal", "o*"])],
    }
    [problem] = between_keys(tree)
    assert problem.warning
    assert str(problem) == 'warning: keys[0].models[2]: "smal" — no model has this name: small, gpt-*'


async def test_a_reload(provider: Provider, model: str) -> None:
    """A reload changes what a key may ask for, from the next request on."""
    names = [{"name": name, "targets": [f"local/{model}"]} for name in ("small", "large")]
    async with in_process(provider.url, models=names, keys=[key("web", models=["small"])]) as gateway:
        for allowed, refused in (("small", "large"), ("large", "small")):
            written = settings(provider.url, models=names, keys=[key("web", models=[allowed])])
            await gateway.app.reload(parse(written.model_dump(exclude_none=True), {}), {})
            for name, status in ((allowed, 200), (refused, 404)):
                answer = await call(gateway.root, "POST", "/v1/chat/completions", completion(name), bearer("web"))
                assert answer.status == status
