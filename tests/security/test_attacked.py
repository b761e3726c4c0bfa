"""Each attack of `scripts/load --preset hostile`, alone, beside another owner: whose streams are whole and not delayed.

How long a token is delayed depends on the machine and on who else uses it. So what is bounded here is the CPU time for
which the attack holds the event loop without a turn for others, in units of a fixed piece of work.
"""

import asyncio
import os
import threading

import pytest
from blocks import unit, watched
from gateway import in_process
from loadgen import hostile
from provider import Provider
from wire import call, completion, texts, until

VICTIMS = 4
PIECES = [f"word{n} " for n in range(40)]
UNITS = 5.0  # a unit takes 10 ms; the largest single step, a parse of 8 MB of escapes, takes about three


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The port of the hostile upstream."""
    with hostile.upstream(tmp_path_factory.mktemp("evil")) as port:
        yield port


def tables(evil: int, store: dict) -> dict:
    """Return the tables of a gateway for three owners, one of whom attacks."""
    short = {"idle_timeout": 1.0, "ttft_timeout": 1.0, "last_resort_timeout": 1.0}
    return {
        "store": store,
        "keys": [{**key, "requests_per_minute": 100_000} for key in hostile.KEYS],
        "upstreams": [
            {"name": "evil", "base_url": f"http://127.0.0.1:{evil}/v1", "api_key_env": "HOSTILE_KEY", **short},
        ],
        "models": [{"name": "evil-*", "targets": ["evil/*"]}, {"name": "*", "targets": ["local/*"]}],
        "tools": {"timeout": 0.3, "functions": {"hang": "loadgen.hostile_tool:hang"}},
        "streams": {"retention": 2.0, "total_timeout": 10.0},
    }


async def victim(root: str, model: str) -> None:
    """Read one stream of the victim, and check every id and text."""
    headers = {"Authorization": f"Bearer {hostile.TOKENS['victim']}"}
    answer = await call(root, "POST", "/v1/chat/completions", completion(model), headers)
    assert answer.status == 200, answer.body
    assert [event.id for event in answer.events] == list(range(1, len(PIECES) + 4))
    assert texts(answer.events) == PIECES
    assert answer.events[-1].data == b"[DONE]"


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp's; here they would be errors
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("name", hostile.ATTACKS)
async def test_attack(provider: Provider, model: str, evil: int, tmp_path, monkeypatch, name, kind) -> None:
    """While an owner attacks, twice at a time, another one's streams lose nothing, and the loop is never held for long.

    Nor does the attacker learn the upstream's key, or get an answer that is not its own.
    """
    monkeypatch.setitem(os.environ, "HOSTILE_KEY", hostile.KEY)
    await provider.script(model, {"pieces": PIECES, "rate": 40})
    store = {"kind": kind, "path": str(tmp_path / "streams.db")}
    made: list[str] = []

    async with in_process(provider.url, **with_local(tables(evil, store), provider)) as gateway:
        await victim(gateway.root, model)  # what is done only once is done
        work, done = unit(), threading.Event()

        def attack() -> None:
            while not done.is_set():
                made.append(asyncio.run(hostile.make(gateway.port, name)))

        with watched() as blocks:
            attacking = [asyncio.create_task(asyncio.to_thread(attack)) for _ in range(2)]
            await asyncio.gather(*(victim(gateway.root, model) for _ in range(VICTIMS)))
            await until(lambda: asyncio.sleep(0, made), 40)
            done.set()
            await asyncio.gather(*attacking)
            await victim(gateway.root, model)
    assert not {"LEAKED", "WRONG"} & set(made), made
    assert blocks.longest < UNITS * work, f"{blocks.longest * 1000:.1f} ms of {work * 1000:.1f}: {blocks.what}"


def with_local(tables: dict, provider: Provider) -> dict:
    """Add the victims' own upstream."""
    tables["upstreams"].append({"name": "local", "base_url": provider.url})
    return tables
