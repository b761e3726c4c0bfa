"""The console and `EventSource`, driven in Chromium."""

import asyncio
import hashlib
import json
import os
import re
from typing import Any

import aiohttp
import pytest
from chromium import check, console
from cutting_proxy import cutting, random_cuts
from gateway import InProcess, in_process
from nginx import nginx
from provider import Provider
from slow_readers import never_read

WORDS = [f"w{n} " for n in range(80)]
TEXT = "".join(WORDS)
PACED: dict[str, Any] = {"pieces": WORDS, "rate": 40}
DIGEST = hashlib.sha256(b"abc123").hexdigest()


async def test_shows_tokens_as_they_come(provider: Provider, model: str) -> None:
    """An answer appears token by token and says at its end who gave it."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "watch", model)
    check(said)
    assert TEXT.startswith(said["early"].rstrip("▍"))
    assert len(said["early"]) < len(TEXT)
    assert said["final"] == TEXT
    assert f"local/{model}" in said["foot"]


async def test_a_reload_goes_on_where_it_was(provider: Provider, model: str) -> None:
    """Reloaded twice in the middle of an answer, the console shows it once and whole, from one generation."""
    await provider.script(model, {**PACED, "stall_after": 60, "stall_for": 4.0})  # a page may take seconds to load
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "reload", model)
    check(said)
    assert said["final"] == said["kept"] == TEXT
    assert said["questions"] == 1
    assert len(await provider.seen(model)) == 1
    resumed = [one for one in said["requests"] if re.match(r"GET /v1/streams/.*\?format=native", one)]
    assert len(resumed) == 2


async def test_a_reload_before_the_first_token_joins(provider: Provider, model: str) -> None:
    """Reloaded before its stream had a name, the console joins the generation that it had begun."""
    await provider.script(model, {**PACED, "ttft": 2.0})
    async with in_process(provider.url, streams={"on_disconnect": "continue"}) as gateway:
        said = await console(gateway.root, "reload_before_the_first_token", model)
    check(said)
    assert said["final"] == TEXT
    assert len(await provider.seen(model)) == 1


async def test_stops(provider: Provider, model: str) -> None:
    """Escape stops the generation itself, not just its display."""
    await provider.script(model, {"pieces": WORDS * 20, "rate": 20})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        said = await console(gateway.root, "stop", model)
        await gateway.idle()
    check(said)
    assert said["final"].endswith("Stopped.")
    assert "cancelled" in said["foot"]


async def test_stops_by_the_button(provider: Provider, model: str) -> None:
    """The button stops the generation as well. A new chat then begins without the old text, and keeps the model."""
    await provider.script(model, {"pieces": WORDS * 20, "rate": 20})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        said = await console(gateway.root, "stop_button", model)
        await gateway.idle()
    check(said)
    assert said["final"].endswith("Stopped.")
    assert (said["left"], said["kept"], said["model"]) == (0, 0, model)


async def test_survives_the_network_going_off_and_on(provider: Provider, model: str) -> None:
    """With the network off and the connection cut the console says so, and goes on by itself when it is back."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:

        async def cut() -> None:
            proxy.drop()

        said = await console(proxy.root, "offline", model, act=cut)
    check(said)
    assert TEXT.startswith(said["during"].rstrip("▍"))
    assert said["final"] == TEXT
    assert said["status"] == ""
    assert len(await provider.seen(model)) == 1


async def test_survives_cuts(provider: Provider, model: str) -> None:
    """An answer whose connections are cut at random bytes is shown once and whole."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        proxy.cuts_of = ("POST /api/stream", "GET /v1/streams/strm_")
        proxy.cuts = random_cuts(8, seed=3, high=1200)
        said = await console(proxy.root, "cuts", model)
        assert proxy.made == 8
    check(said)
    assert said["final"] == TEXT


async def test_marks_recoveries_and_shows_tools(provider: Provider, model: str) -> None:
    """Thinking, a tool call with its result and a recovery stand where they happened, and still do after a reload."""
    call = {"index": 0, "id": "call_1", "name": "lookup", "arguments": {"query": "<b>levels</b>"}}
    await provider.script(
        model,
        {"reasoning": ["Let me ", "<i>see</i>."], "tool_calls": [call], "text": None},
        {"pieces": WORDS, "cut_after": 30},
        {"pieces": WORDS},
    )
    functions = {"functions": {"lookup": "console_tools:lookup"}}
    async with in_process(provider.url, recovery={"strategy": "auto", "backoff": 0.05}, tools=functions) as gateway:
        said = await console(gateway.root, "events", model)
    check(said)
    assert len(said["marks"]) == 1
    assert "restart" in said["marks"][0]
    assert said["order"] == ["DETAILS", "DETAILS", "#text", "SPAN", "#text"]
    thinking, tool = said["tools"]
    assert thinking == "ThinkingLet me <i>see</i>."
    assert '"query": "<b>levels</b>"' in tool
    assert "<img src=x onerror=alert(1)> 3.2 m" in tool
    assert said["running"].startswith('lookup{"query":"<b>levels</b>"}running …')
    assert said["again"] == said["order"]
    assert said["markup"] == 0


@pytest.mark.parametrize("admin", [False, True])
async def test_asks_for_the_key(provider: Provider, model: str, admin: bool) -> None:
    """If there are keys, the console asks for one, says when it is wrong, and streams with the right one.

    With an admin key the details of a stream say whose it is; with another key they do not.
    """
    await provider.script(model, PACED)
    async with in_process(provider.url, keys=[{"name": "web", "sha256": DIGEST, "admin": admin}]) as gateway:
        said = await console(gateway.root, "key", model)
    check(said)
    assert said["final"] == TEXT
    assert f"local/{model}" in said["words"]
    assert ("Ownerweb" in said["words"]) is admin


async def test_shows_the_gateway(provider: Provider, model: str) -> None:
    """Beside the chat are live streams with their lag, times to the first token, phases, and the circuits' states."""
    flood = model + "-flood"
    await provider.script(model, {**PACED, "rate": 15})
    await provider.script(flood, {"tokens": 10_000_000, "big": 100})
    upstreams = [{"name": "local", "base_url": provider.url}, {"name": "away", "base_url": "http://127.0.0.1:9/v1"}]
    models = [{"name": model, "targets": [f"away/{model}", f"local/{model}"]}, {"name": "*", "targets": ["local/*"]}]
    recovery = {"strategy": "auto", "backoff": 0.01, "max_retries": 0, "breaker_failures": 1, "breaker_reset": 60.0}
    async with (
        in_process(provider.url, upstreams=upstreams, models=models, recovery=recovery) as gateway,
        never_read(gateway.port, flood, 1),
    ):
        said = await console(gateway.root, "gateway", model)
    check(said)
    mine, stuck = said["rows"]
    assert model in mine
    assert "0 B" in mine
    assert "paused" in stuck
    assert "KB" in stuck
    assert "2 requests" in said["ttft"]
    assert said["phases"] == ["no answer"]
    assert {f"open away/{model}", f"closed local/{model}"} <= set(said["circuits"])


async def test_light_dark_phone_and_keyboard(provider: Provider, model: str) -> None:
    """During an answer colours follow the system or the choice, nothing is too wide, and Tab reaches everything.

    With SCREENSHOTS=FOLDER in the environment it takes pictures.
    """
    call = {"index": 0, "id": "call_1", "name": "lookup", "arguments": {"query": "level at the north gate " * 8}}
    thought = {"reasoning": ["I should ", "look it up."], "text": "Let me look. ", "tool_calls": [call]}
    wide = ["\n\n    ", "longword" * 20, "\n\n| a column | another |\n|---|---|\n| ", "longword" * 20, " | 1 |\n\n"]
    answer = {"pieces": [*WORDS, *wide, *WORDS], "rate": 30}
    names = [model, "a-model-with-a-rather-long-name-that-no-phone-can-show-in-one-line"]
    models = [{"name": name, "targets": [f"local/{model}"]} for name in names]
    await provider.script(model, thought, {**answer, "cut_after": 30}, answer)
    tools = {"functions": {"lookup": "console_tools:lookup"}}
    argument = json.dumps({"model": model, "folder": os.environ.get("SCREENSHOTS", "")})
    recovery = {"strategy": "auto", "backoff": 0.05}
    async with in_process(provider.url, recovery=recovery, tools=tools, models=models) as gateway:
        said = await console(gateway.root, "looks", argument)
    check(said)
    light, dark, phone = said["light"], said["dark"], said["phone"]
    assert light["background"] != dark["background"]
    assert said["chosen"] == dark["background"]
    assert light["overflow"] == dark["overflow"] == phone["overflow"] == 0
    assert said["answering"]
    assert (phone["chat"], phone["gateway"], said["tab"]) == (True, False, True)
    assert {"skip", "theme", "messages", "summary", "prompt", "models", "clear", "send", "scroll"} <= set(
        said["reached"]
    )


MARKDOWN = """# A heading

Some **bold**, `code` and a [link](https://example.com/a?b=c), but [not this](javascript:alert(1)) or
<img src=x onerror=alert(1)> or ![a picture](https://example.com/x.png), and &lt;tags&gt;.

- one <script>alert(1)</script>
- [ ] two

| a | b |
|---|--:|
| 1 | <b>2</b> |

```html
<b>not bold</b>
```

<div onclick="alert(1)">html</div>
"""
# Elements that a model's text may become, all without a way to run or load anything.
HARMLESS = {
    "a", "button", "code", "div", "h3", "li", "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr",
    "ul",
}  # fmt: skip


async def test_markdown_is_drawn_and_nothing_of_it_is_active(provider: Provider, model: str) -> None:
    """Headings, lists, tables and code are elements; HTML, images and other links are text. Code can be copied."""
    await provider.script(model, {"pieces": [MARKDOWN[at : at + 7] for at in range(0, len(MARKDOWN), 7)], "rate": 400})
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "markdown", model)
    check(said)
    assert said["heading"] == ["A heading"]
    assert said["strong"] == ["bold"]
    assert said["cells"] == ["1", "<b>2</b>"]
    assert said["code"] == ["<b>not bold</b>"]
    assert said["clipboard"] == "<b>not bold</b>"
    assert said["items"] == ["one <script>alert(1)</script>", "☐ two"]
    safe = ["noopener noreferrer nofollow", "_blank"]
    assert said["links"] == [
        ["link", "https://example.com/a?b=c", *safe], ["a picture", "https://example.com/x.png", *safe],
    ]  # fmt: skip
    assert set(said["names"]) <= HARMLESS
    assert set(said["attributes"]) <= {"class", "href", "rel", "target", "title", "type"}
    for shown in ("<img src=x onerror=alert(1)>", "(javascript:alert(1))", "<tags>", '<div onclick="alert(1)">'):
        assert shown in said["text"]


async def test_conversations_are_kept_and_listed(provider: Provider, model: str) -> None:
    """Each is in a list by its first question, can be shown again, survives a reload, and can be deleted."""
    await provider.script(model, {"text": "Yes."})
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "conversations", model)
    check(said)
    assert said["titles"] == ["Second question", "First question"]
    assert said["first"] == said["kept"] == "First question"
    assert said["left"] == ["First question"] or said["left"] == ["Second question"]


async def test_an_answer_goes_on_while_another_conversation_is_shown(provider: Provider, model: str) -> None:
    """A new chat begins empty in the middle of an answer. Back in the first one, the answer is whole, from one call."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "another_conversation_meanwhile", model)
    check(said)
    assert (said["empty"], said["final"]) == (0, TEXT)
    assert len(await provider.seen(model)) == 1


async def test_regenerates_with_the_system_prompt(provider: Provider, model: str) -> None:
    """The last answer is asked for once more, with the same turns before it. Both requests have the system prompt."""
    await provider.script(model, {"text": "One."}, {"text": "Two."})
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "regenerate", model)
    check(said)
    assert (said["first"], said["second"]) == ("One.", "Two.")
    assert (said["count"], said["system"]) == (2, "Be brief.")
    wanted = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me."}]
    assert [one["body"]["messages"] for one in await provider.seen(model)] == [wanted, wanted]


async def test_the_list_of_models(provider: Provider, model: str) -> None:
    """The configured names are offered, and any other can be typed. If nothing can be listed, the console says so."""
    async with in_process(provider.url, models=[{"name": "small", "targets": [f"local/{model}"]}]) as gateway:
        said = await console(gateway.root, "models")
    check(said)
    assert (said["note"], said["names"], said["shown"]) == ("", ["small", ""], [True, False])
    assert said["typed"] == "a name of one's own"
    away = [{"name": "local", "base_url": "http://127.0.0.1:9/v1"}]
    models = [{"name": "*", "targets": ["local/*"]}]
    async with in_process(provider.url, upstreams=away, models=models) as gateway:
        said = await console(gateway.root, "models")
    check(said)
    words = "The upstreams list no models: type a model's name."
    assert (said["note"], said["names"], said["shown"]) == (words, [""], [False, True])


async def test_details_of_a_stream(provider: Provider, model: str) -> None:
    """A row has its time and tokens. Enter shows the rest: target, attempts, recoveries with their causes, usage."""
    await provider.script(model, {"pieces": WORDS, "cut_after": 30}, {"pieces": WORDS})
    async with in_process(provider.url, recovery={"strategy": "auto", "backoff": 0.01}) as gateway:
        said = await console(gateway.root, "details", model)
    check(said)
    assert said["cells"][1] == model
    assert said["cells"][5].removeprefix("≈ ") == "80"
    for words in (
        f"local/{model}",
        "restart at",
        "failed: upstream_cut",
        "80 completion tokens",
        "strm_",
        "first token",
    ):
        assert words in said["words"]
    assert (said["open"], said["found"]) == (1, 1)
    assert said["none"] == "No stream fits the filter."
    assert said["first"] == "−5 min"  # the plot begins with the data, not an hour ago


async def test_the_panel(provider: Provider) -> None:
    """The figures can be closed, which is kept, and are a page of their own with an address. So can the list."""
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "panel")
    check(said)
    assert said["begin"] == said["opened"] == ["sidebar", "chat", "gateway"]
    assert said["closed"] == said["kept"] == said["back"] == ["sidebar", "chat"]
    assert said["page"] == said["again"] == ["gateway"]
    assert said["title"] == "Gateway · Sluiceway"
    assert said["alone"] == ["chat", "gateway"]


async def test_the_policy_is_strict(provider: Provider) -> None:
    """Text cannot become markup, scripts in the page cannot run, and no other host can be reached."""
    async with in_process(provider.url) as gateway:
        said = await console(gateway.root, "policy")
        async with aiohttp.request("GET", gateway.root + "/") as response:
            policy = response.headers["Content-Security-Policy"]
    assert (said["markup"], said["ran"], said["outside"]) == ("refused", False, "refused")
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("path", ["/static/../api/console.py", "/static/%2e%2e/cli.py", "/static/none.js", "/static/"])
async def test_serves_only_its_files(provider: Provider, path: str) -> None:
    """Nothing but the known files comes from the static path."""
    async with in_process(provider.url) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readline()
        writer.close()
    assert b" 404 " in head


async def _begun(gateway: InProcess, model: str) -> str:
    """Begin a native stream; return the path that `EventSource` can read it at."""
    body = {"model": model, "prompt": "Tell me."}
    headers = {"X-On-Disconnect": "continue"}
    async with aiohttp.request("POST", gateway.root + "/api/stream", json=body, headers=headers) as response:
        return f"/v1/streams/{response.headers['X-Stream-Id']}?format=native"


async def test_event_source_survives_cuts(provider: Provider, model: str) -> None:
    """The browser's own EventSource reads a stream over cut connections, every event once, and then stays away."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        path = await _begun(gateway, model)
        proxy.cuts_of = ("GET /v1/streams/strm_",)
        proxy.cuts = [2500, 1500]
        said = await console(proxy.root, "event_source", path)
        assert proxy.made == 2
    check(said)
    assert said["texts"] == WORDS
    assert said["ids"] == sorted(set(said["ids"]))
    assert said["done"] == ["complete"]
    assert said["opens"] == 3


CALL = {"index": 0, "id": "call_1", "name": "lookup", "arguments": {"query": "räuber"}}
STORIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"pieces": WORDS, "rate": 400}, {"texts": WORDS, "calls": [], "errors": [], "done": ["complete"]}),
    "tool call": (
        {"tool_calls": [CALL]},
        {"texts": [], "calls": [["lookup", {"query": "räuber"}]], "errors": [], "done": ["complete"]},
    ),
    "error": (
        {"pieces": WORDS, "cut_after": 5, "rate": 400},
        {"texts": WORDS[:5], "calls": [], "errors": ["upstream_cut"], "done": ["failed"]},
    ),
}


@pytest.mark.parametrize("front", ["gateway", "nginx"])
@pytest.mark.parametrize(("script", "wanted"), STORIES.values(), ids=STORIES)
async def test_event_source(
    provider: Provider, model: str, front: str, script: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """EventSource gets text, a tool call and an error in the stream, from the gateway and through nginx."""
    await provider.script(model, script)
    async with in_process(provider.url) as gateway, nginx(gateway.port) as proxy:
        root = gateway.root if front == "gateway" else proxy.root
        said = await console(root, "event_source", await _begun(gateway, model))
    check(said)
    assert {name: said[name] for name in wanted} == wanted
    assert said["ids"] == sorted(set(said["ids"]))
