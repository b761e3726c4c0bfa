"""Every block of code in README and docs/ runs, or is listed here with the reason why it cannot; every link resolves.

Those that need more than a running gateway, or whose output is known, have tests of their own in test_snippets.py.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import check_links
import pytest
from gateway import ROOT, in_process, toml
from provider import Provider
from snippets import FENCE, run
from terminal import run as run_command
from test_snippets import RUN_HERE, models

PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
]
LANGUAGES = ("sh", "python", "js", "toml")
# (page, how the block begins): why it is not run here.
NOT_RUN = {
    (
        "README.md",
        "./scripts/serve",
    ): "does not end; test_serve.py runs it, and `scripts/test` is this very run",
    ("CONTRIBUTING.md", "./scripts/test"): "is this very run",
    ("docs/quickstart.md", "./scripts/serve"): "does not end; tests/scripts/test_serve.py runs it",
    ("docs/quickstart.md", ".venv/bin/sluiceway serve"): "does not end; every test with own_process runs it",
    (
        "docs/extending.md",
        ".venv/bin/pip install",
    ): "would install into this environment; tests/examples does it elsewhere",
    ("docs/extending.md", "# from tests/support/contract.py"): "tests/examples/test_example_store.py is this class",
    ("docs/clients.md", "sluiceway chat"): "test_snippets.py runs it, with somebody who types",
    (
        "docs/messages.md",
        "export ANTHROPIC_BASE_URL",
    ): "Claude Code is a program of 200 MB; what it sends is in tests/dialects/messages",
    ("docs/tools.md", "from mcp.server"): "does not end; test_snippets.py runs it as a server",
    ("docs/tools.md", "[project.entry-points"): "is a pyproject.toml's; test_snippets.py compares it",
}
BASE = {
    "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:8081/v1"}],
    "models": [{"name": "*", "targets": ["local/*"]}],
}
KNOWN_PLUGINS = {"next-target": "auto", "files": "memory"}  # of examples/: a built-in stands for each


def found(*languages: str) -> Iterator[Any]:
    """Give every block of these languages that is run here, and not by test_snippets.py."""
    for page in PAGES:
        for number, (language, code) in enumerate(FENCE.findall((ROOT / page).read_text(encoding="utf-8"))):
            listed = code in RUN_HERE or any(page == where and code.startswith(start) for where, start in NOT_RUN)
            if language in languages and not listed:
                yield pytest.param(page, language, code, id=f"{page}-{number}-{language}")


@pytest.mark.parametrize(("page", "language", "code"), [*found("sh", "python", "js")])
async def test_a_block_runs(
    provider: Provider, model: str, tmp_path: Path, page: str, language: str, code: str
) -> None:
    """Each block runs without an error as it stands, against a gateway that has the pages' models."""
    await provider.script(model, {"text": "The sea is wide. " * 20, "rate": 200})
    for name, target in ((".venv", Path(sys.prefix)), ("deploy", ROOT / "deploy"), ("scripts", ROOT / "scripts")):
        (tmp_path / name).symlink_to(target)
    configurations = [code for name, code in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if name == "toml"]
    if configurations:
        (tmp_path / "gateway.toml").write_text(configurations[0])
    body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with in_process(provider.url, **models(model)) as gateway:
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body) as response:
            await response.read()
        said = await run(language, code, gateway.root, tmp_path, ID=response.headers["X-Stream-Id"])
    if language == "sh" and " check " not in code:
        assert said.strip()
    assert '"error"' not in said
    if "Last-Event-ID" in code:
        told = said.rpartition("--- ")[2]
        after = int(re.search(r"Last-Event-ID: (\d+)", code)[1])
        ids = [int(one) for one in re.findall(r"^id: (\d+)$", told, re.MULTILINE)]
        assert ids == list(range(after + 1, after + 1 + len(ids)))
        assert told.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(("page", "language", "code"), [*found("toml")])
async def test_a_configuration_is_valid(tmp_path: Path, page: str, language: str, code: str) -> None:
    """`sluiceway check` accepts each configuration, if an upstream and a model are added to those that have none."""
    tables = tomllib.loads(code)
    if "upstreams" not in tables:
        tables = {**BASE, **tables}
    if "models" not in tables:
        tables["models"] = [
            {"name": f"{one['name']}-*", "targets": [f"{one['name']}/*"]} for one in tables["upstreams"]
        ]
    for table, key in (("recovery", "strategy"), ("store", "kind")):
        if tables.get(table, {}).get(key) in KNOWN_PLUGINS:
            tables[table][key] = KNOWN_PLUGINS[tables[table][key]]
    functions = tables.get("tools", {}).pop("functions", {})
    config = tmp_path / "config.toml"
    written = toml(tables) + ("[tools.functions]\n" if functions else "")
    config.write_text(written + "".join(f"{name} = {place!r}\n" for name, place in functions.items()))
    named = [*functions.values(), *(place for place in tables.get("preprocess", {}).values() if isinstance(place, str))]
    for module, _, function in (place.partition(":") for place in named):  # whoever reads the page has written them
        with (tmp_path / f"{module}.py").open("a") as file:
            file.write(f"def {function}(): ...\n")
    status, _, said = await run_command("check", "--config", str(config), PYTHONPATH=str(tmp_path))
    assert status == 0, f"{written}\n{said}"


def test_nothing_is_left_out() -> None:
    """Every block has a language that is run here, or none if it shows output. Every listed exception still exists."""
    codes = {page: FENCE.findall((ROOT / page).read_text(encoding="utf-8")) for page in PAGES}
    assert {name for blocks in codes.values() for name, _ in blocks} <= {"", *LANGUAGES}
    for page, start in NOT_RUN:
        assert any(code.startswith(start) for _, code in codes[page]), f"{page}: {start} is there no more"


def test_links_lead_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Every relative link is to a file and a heading that exist, and every file that a page names is there."""
    wrong = check_links.main()
    assert not wrong, capsys.readouterr().out
