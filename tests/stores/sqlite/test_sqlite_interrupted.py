"""Interrupted creations and claims in SQLite are given back: no log stays where nobody writes it."""

import asyncio

import internals
import pytest
from contract import DONE, beginning, ending, everything, tokens
from gateway import settings

from server.core.errors import Fenced, StoreError
from server.stores.sqlite.store import SqliteStore


@pytest.fixture
async def stores(tmp_path):
    """Two instances on one file, with a lease that does not run out."""
    table = {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 60.0}
    made = [SqliteStore(settings("http://127.0.0.1:1/v1", store=table)) for _ in range(2)]
    for store in made:
        await store.open()
    yield made
    for store in made:
        await store.close()


async def orphaned(store, log):
    return log.beginning.id in [orphan.beginning.id async for orphan in store.orphans()]


async def halfway(monkeypatch, store, log):
    """Claim a log; the store fails after the claim has been made, with the look at the log."""

    async def failing(_logs):
        raise StoreError("The disk has failed.")

    with monkeypatch.context() as patched:
        patched.setattr(internals.catalog(store), "refresh", failing)
        with pytest.raises(StoreError, match="The disk has failed"):
            await store.claim(log, force=True)


async def test_a_claim_that_failed_halfway(stores, monkeypatch):
    """It is given back with the next lease: the instance that had the log can claim it back at once, and go on."""
    one, two = stores
    log = await one.create(beginning())
    await log.append(tokens(3))
    await halfway(monkeypatch, two, await two.find(log.beginning.id))
    with pytest.raises(Fenced):
        await log.append(tokens(1))
    assert not await one.claim(log)
    await two.renew()
    assert await orphaned(one, log)
    assert await one.claim(log)
    await log.append(DONE, ending())
    assert await everything(await two.find(log.beginning.id)) == tokens(3) + DONE


async def test_a_claim_that_is_overtaken(stores, monkeypatch):
    """If another instance claims a log before the claim here has come to its end, this one is fenced at once."""
    one, two = stores
    log = await one.create(beginning())
    found = await two.find(log.beginning.id)
    refresh = internals.catalog(two).refresh

    async def overtaken(logs):
        await refresh(logs)
        assert await one.claim(log, force=True)
        await two.renew()

    with monkeypatch.context() as patched:
        patched.setattr(internals.catalog(two), "refresh", overtaken)
        assert await two.claim(found, force=True)
    assert found.fenced
    assert await two.renew() == [found]
    with pytest.raises(Fenced):
        await found.append(tokens(1))
    await log.append(tokens(1))


@pytest.mark.parametrize("claimant", ["the same", "another"])
async def test_claimed_again(stores, monkeypatch, claimant):
    """Nothing is given back of an interrupted claim when the log has been claimed once more, by either instance."""
    one, two = stores
    log = await one.create(beginning())
    found = await two.find(log.beginning.id)
    await halfway(monkeypatch, two, found)
    again, store = (found, two) if claimant == "the same" else (log, one)
    assert await store.claim(again, force=True)
    await two.renew()
    assert not await orphaned(one, log)
    await again.append(tokens(1) + DONE, ending())


async def test_claims_whose_callers_left(stores):
    """Whenever the caller of a claim leaves, the log is still the writer's or can be claimed by anybody."""
    one, two = stores
    for turns in range(60):
        log = await one.create(beginning())
        claiming = asyncio.create_task(two.claim(await two.find(log.beginning.id), force=True))
        for _ in range(turns % 20):
            await asyncio.sleep(0.0001)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        if not claiming.cancelled():
            continue
        await two.renew()
        try:
            await log.append(tokens(1))
        except Fenced:
            assert await one.claim(log)
            await log.append(tokens(1))
        assert await everything(log) == tokens(1)


async def test_creations_whose_callers_left(stores):
    """Whenever the caller of a creation leaves, nothing of it stays, and its key is free."""
    one, two = stores
    for turns in range(60):
        facts = beginning(idempotency=("key", "digest"))
        creating = asyncio.create_task(one.create(facts))
        for _ in range(turns % 10):
            await asyncio.sleep(0.0001)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
        await one.batches.flush()
        if not creating.cancelled():
            continue
        await one.renew()
        assert await two.find(facts.id) is None
        again = beginning(owner=facts.owner, idempotency=facts.idempotency)
        assert (await two.create(again)).beginning.id == again.id


async def test_an_interrupted_creation_that_was_taken_over(stores):
    """If a client with the same key has got its log, and it was taken over, the log stays."""
    one, two = stores
    facts = beginning(idempotency=("key", "digest"))
    creating = asyncio.create_task(one.create(facts))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    joined = await two.create(beginning(owner=facts.owner, idempotency=facts.idempotency))
    assert await two.claim(joined, force=True)
    await one.renew()
    await joined.append(DONE, ending())
    assert await everything(await one.find(facts.id)) == DONE
