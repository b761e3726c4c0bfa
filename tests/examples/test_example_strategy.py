"""The example of a strategy decides what it says, in a running gateway."""

import pytest
from gateway import own_process
from wire import complete, texts

WHOLE = "".join(f"tok{i} " for i in range(20))


@pytest.mark.parametrize("fault", [{"status": 429, "headers": {"Retry-After": "5"}}, {"cut_after": 7}])
async def test_the_next_target_at_once(provider, installed, model, fault) -> None:
    """A limit that asks for five seconds, or a cut in the middle: the other target is asked, and nothing is lost."""
    await provider.script(f"{model}-one", fault)
    upstreams = [{"name": name, "base_url": provider.url} for name in ("one", "two")]
    models = [{"name": model, "targets": [f"one/{model}-one", f"two/{model}-two"]}]
    environ = {"PYTHONPATH": installed}
    async with own_process(
        provider.url, environ=environ, recovery={"strategy": "next-target"}, upstreams=upstreams, models=models
    ) as gateway:
        answer = await complete(gateway.root, model)
    assert "".join(texts(answer.events)) == WHOLE
    assert [len(await provider.seen(f"{model}-{name}")) for name in ("one", "two")] == [1, 1]


async def test_gives_up_when_all_were_asked(provider, installed, model) -> None:
    """With one target there is no next one: the first error is the answer."""
    await provider.script(model, {"status": 503})
    environ = {"PYTHONPATH": installed}
    async with own_process(provider.url, environ=environ, recovery={"strategy": "next-target"}) as gateway:
        answer = await complete(gateway.root, model)
    assert answer.status == 503
    assert len(await provider.seen(model)) == 1
