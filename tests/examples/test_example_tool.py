"""The example of a tool is offered to models and run for them by a running gateway."""

import native
from gateway import own_process


async def test_a_model_calls_it(provider, installed, model) -> None:
    """Its dates are checked and converted by its signature; the model is asked again with the result."""
    calls = [native.call("days_between", {"first": "2026-01-31", "second": "2026-02-28"})]
    await provider.script(model, {"tool_calls": calls}, {"text": "28 days."})
    async with own_process(provider.url, environ={"PYTHONPATH": installed}) as gateway:
        found = await native.events(gateway.root, model)
    assert [one["content"] for one in native.of(found, "tool_result")] == ["28"]
    assert native.text(found) == "28 days."
    offered = (await provider.seen(model))[0]["body"]["tools"][0]["function"]
    assert offered["name"] == "days_between"
    assert offered["description"].startswith("Count the days")
    assert offered["parameters"]["properties"]["first"]["format"] == "date"


async def test_a_wrong_date_is_told_to_the_model(provider, installed, model) -> None:
    """And the function does not run."""
    calls = [native.call("days_between", {"first": "yesterday", "second": "2026-02-28"})]
    await provider.script(model, {"tool_calls": calls}, {"text": "Sorry."})
    async with own_process(provider.url, environ={"PYTHONPATH": installed}) as gateway:
        found = await native.events(gateway.root, model)
    (result,) = native.of(found, "tool_result")
    assert result["error"].startswith("The arguments do not fit: first")
