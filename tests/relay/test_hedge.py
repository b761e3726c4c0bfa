"""Hedging: a second target beside a slow one, and never a mixed text."""

import asyncio
import time

from targets import TEXT20, gateway_with_targets, requests_per_target
from timing import until_fast
from wire import Client, complete, texts, until

HEDGED = {"hedge_after": 0.15}


async def closed(provider, model: str) -> float:
    """Wait until the gateway has closed its one request at this target; return when."""

    async def found() -> float | None:
        return (await provider.seen(model))[0]["closed_by_client_at"]

    return await until(found)


async def test_late_first_token(provider, model) -> None:
    """The next target is asked beside a late one, wins, and the late one is closed at once."""

    async def ask(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(f"{name}-1", {"ttft": 30})
        await provider.script(f"{name}-2", {"rate": 40})
        async with gateway_with_targets(provider, name, recovery=HEDGED) as gateway:
            answer = await complete(gateway.root, name)
            assert "".join(texts(answer.events)) == TEXT20
            assert answer.headers["x-sluiceway-target"] == f"two/{name}-2"
            [won] = await provider.seen(f"{name}-2")
            late = await closed(provider, f"{name}-1") - won["first_token_at"]
        assert await requests_per_target(provider, name) == [1, 1]
        return late

    await until_fast(ask, 0.2)


async def test_first_still_wins(provider, model) -> None:
    """The first target may win after the second was asked; then the second is closed."""
    await provider.script(f"{model}-1", {"ttft": 0.5, "rate": 40})
    await provider.script(f"{model}-2", {"ttft": 30})
    async with gateway_with_targets(provider, model, recovery=HEDGED) as gateway:
        answer = await complete(gateway.root, model)
        assert "".join(texts(answer.events)) == TEXT20
        assert answer.headers["x-sluiceway-target"] == f"one/{model}-1"
        await closed(provider, f"{model}-2")
    assert await requests_per_target(provider, model) == [1, 1]


async def test_fast_target_is_alone(provider, model) -> None:
    """If the first token is in time, no other target is asked, however long the stream is."""
    await provider.script(f"{model}-1", {"rate": 10})
    async with gateway_with_targets(provider, model, recovery={"hedge_after": 1.5}) as gateway:
        assert "".join(texts((await complete(gateway.root, model)).events)) == TEXT20
    assert await requests_per_target(provider, model) == [1, 0]


async def test_one_of_two_fails(provider, model) -> None:
    """A failure of one of the two, first or second, leaves the other running."""
    for number, broken in enumerate([{"status": 500, "headers_after": 0.4}, {"status": 500}], 1):
        name = f"{model}-{number}"
        slow = {"ttft": 0.8}
        await provider.script(f"{name}-1", broken if number == 1 else slow)
        await provider.script(f"{name}-2", slow if number == 1 else broken)
        async with gateway_with_targets(provider, name, recovery=HEDGED) as gateway:
            assert "".join(texts((await complete(gateway.root, name)).events)) == TEXT20
        assert await requests_per_target(provider, name) == [1, 1]


async def test_both_fail(provider, model) -> None:
    """When both fail the ladder goes on, with both attempts counted and the first cause kept."""
    await provider.script(f"{model}-1", {"status": 503, "headers_after": 0.4})
    await provider.script(f"{model}-2", {"status": 500, "headers_after": 0.4})
    recovery = {**HEDGED, "max_retries": 0}
    async with gateway_with_targets(provider, model, recovery=recovery) as gateway:
        assert (await complete(gateway.root, model)).status == 503
    assert await requests_per_target(provider, model) == [1, 1]


async def test_winner_is_cut(provider, model) -> None:
    """When the winner is cut later on, the loser may be asked again, and the text is whole."""
    await provider.script(f"{model}-1", {"ttft": 30}, {})
    await provider.script(f"{model}-2", {"cut_after": 7})
    async with gateway_with_targets(provider, model, recovery=HEDGED) as gateway:
        answer = await complete(gateway.root, model)
    assert "".join(texts(answer.events)) == TEXT20
    assert [event.id for event in answer.events] == list(range(1, len(answer.events) + 1))


async def test_client_leaves(provider, model) -> None:
    """A client that leaves while two targets are asked ends both at once."""

    async def leave(number: int) -> float:
        targets = [f"{model}-{number}-{target}" for target in (1, 2)]
        for target in targets:
            await provider.script(target, {"never_answer": True})
        async with (
            gateway_with_targets(provider, f"{model}-{number}", recovery=HEDGED) as gateway,
            Client(gateway.root) as client,
        ):
            await client.complete(f"{model}-{number}")
            await until(lambda: provider.seen(targets[1]))
            left = time.monotonic()
            client.leave()
            return max(await asyncio.gather(*(closed(provider, target) for target in targets))) - left

    await until_fast(leave, 0.2)


async def test_whole_call_is_not_hedged(provider, model) -> None:
    """A call that is not streamed has no first token to be late."""
    await provider.script(f"{model}-1", {"headers_after": 0.5})
    async with gateway_with_targets(provider, model, recovery=HEDGED) as gateway:
        answer = await complete(gateway.root, model, stream=False)
    assert answer.status == 200
    assert await requests_per_target(provider, model) == [1, 0]


async def test_nobody_to_ask(provider, model) -> None:
    """With one target hedging changes nothing."""
    await provider.script(f"{model}-1", {"ttft": 0.5})
    async with gateway_with_targets(provider, model, targets=1, recovery=HEDGED) as gateway:
        assert "".join(texts((await complete(gateway.root, model)).events)) == TEXT20
    assert await requests_per_target(provider, model, 1) == [1]
