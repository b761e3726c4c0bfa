"""Tools of a distribution that is installed beside the gateway: entry points of the group `sluiceway.tools`."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import native
import pytest
from gateway import own_process

from server.tools.tool import ToolSetupError, from_function

MODULE = '''
"""A third party's tools."""

def level(gate: str, metres: float = 0.0) -> str:
    """Tell the water level at a gate."""
    return f"{gate}: {metres + 1.5} m"

def add(x: int) -> int:
    """Not the one that is configured."""
    return -1
'''
POINTS = "[sluiceway.tools]\nlevel = weir_tools:level\nadd = weir_tools:add\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Install a distribution of one module with pip, into a folder of its own; return it, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("plugin")
    wheel, site = folder / "weir_tools-1.0-py3-none-any.whl", folder / "site"
    files = {
        "weir_tools.py": MODULE,
        "weir_tools-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: weir-tools\nVersion: 1.0\n",
        "weir_tools-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "weir_tools-1.0.dist-info/entry_points.txt": POINTS,
        "weir_tools-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([*pip, "--disable-pip-version-check", "--no-compile"], check=True, timeout=100)
    return site


async def test_an_installed_distribution(provider, model, installed: Path) -> None:
    """Its tools are offered and run without configuration. A configured function of the same name wins."""
    environ = {"PYTHONPATH": f"{installed}:{native.TOOLS}"}
    calls = [native.call("level", {"gate": "north", "metres": 2}), native.call("add", {"x": 1})]
    await provider.script(model, {"tool_calls": calls}, {"text": "I see."})
    tools = {"functions": {"add": "tool_examples:add"}}
    async with own_process(provider.url, environ=environ, tools=tools) as gateway:
        found = await native.events(gateway.root, model)
    results = {event["name"]: event["content"] for event in native.of(found, "tool_result")}
    assert results == {"level": "north: 3.5 m", "add": "2"}
    offered = {tool["function"]["name"]: tool["function"] for tool in (await provider.seen(model))[0]["body"]["tools"]}
    assert offered["level"]["description"] == "Tell the water level at a gate."
    assert offered["level"]["parameters"]["required"] == ["gate"]


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("none = weir_tools:none", "The tool 'none' (weir_tools:none) cannot be loaded: AttributeError"),
        ("gone = no_such_module:f", "The tool 'gone' (no_such_module:f) cannot be loaded: ModuleNotFoundError"),
        ("a.b = weir_tools:level", "The name of the tool 'a.b' must be"),
    ],
)
async def test_one_that_does_not_work(provider, installed: Path, tmp_path: Path, point: str, words: str) -> None:
    """The gateway does not start with a plug-in that cannot be offered. One line names it."""
    site = shutil.copytree(installed, tmp_path / "site")
    [points] = site.glob("*.dist-info/entry_points.txt")
    points.write_text(f"[sluiceway.tools]\n{point}\n")
    with pytest.raises(RuntimeError) as raised:
        async with own_process(provider.url, environ={"PYTHONPATH": str(site)}):
            pass
    assert words in str(raised.value)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ü", "a" * 65])
def test_names(name: str) -> None:
    """A name that OpenAI's API refuses is refused when the tool is made."""
    with pytest.raises(ToolSetupError, match="must be 1 to 64"):
        from_function(name, str)
