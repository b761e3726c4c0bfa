"""`sluiceway check` as a user runs it: the functions that a configuration names are loaded as a start would."""

from gateway import ROOT, tree, written
from terminal import run

MODULE = '''
import sys

def good(city: str) -> str:
    """Tell the weather."""

def by_position(city, /):
    pass

def no_schema(thing: sys):
    pass

number = 7
'''
LEAVES = "raise SystemExit('usage:\\n  mine')\n"


async def checked(tmp_path, **tables):
    """Give what `check` returns and says, where `mine` can be imported."""
    for name, text in (("mine", MODULE), ("leaves", LEAVES)):
        (tmp_path / f"{name}.py").write_text(text)
    config = written(str(tmp_path), tree("http://127.0.0.1:1/v1", **tables))
    status, out, said = await run("check", "--config", str(config), PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert out == ("" if status else "1 upstream, 1 model, memory\n")
    return status, said.splitlines()


async def test_functions_that_work(tmp_path):
    """Tools and preprocessors that can be loaded are no mistake."""
    tools = {"functions": {"good": "mine:good", "now": "server.tools.examples:now"}}
    assert await checked(tmp_path, tools=tools, preprocess={"timeout": 2.0, "mine": "mine:good"}) == (0, [])


async def test_functions_that_do_not(tmp_path):
    """Each that cannot be imported, or is no tool, is one line with its key, beside the other mistakes; status 2."""
    wrong = {
        "gone": ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        "none": ("mine:none", "AttributeError: module 'mine' has no attribute 'none'"),
        "leaves": ("leaves:f", "SystemExit: usage: mine"),
        "number": ("mine:number", "The tool 'number' is not a function."),
        "by_position": ("mine:by_position", "a model gives them by name"),
        "no_schema": ("mine:no_schema", "has no JSON schema"),
    }
    status, lines = await checked(
        tmp_path,
        store={"kind": "papyrus"},
        tools={"functions": {"good": "mine:good", **{name: place for name, (place, _) in wrong.items()}}},
        preprocess={"fine": "mine:good", "odd": "mine:number"},
    )
    assert status == 2
    assert len(lines) == len(wrong) + 2
    assert lines[0].startswith('store.kind: "papyrus"')
    for line, (name, (place, words)) in zip(lines[1:], wrong.items(), strict=False):
        assert line.startswith(f'tools.functions.{name}: "{place}" — ')
        assert words in line
    assert lines[-1].startswith('preprocess.odd: "mine:number" — ')


async def test_a_place_that_is_none(tmp_path):
    """What is no `module:function` is one mistake, not two."""
    status, lines = await checked(tmp_path, tools={"functions": {"odd": "mine"}})
    assert (status, len(lines)) == (2, 1)


async def test_tools_that_are_hidden(tmp_path):
    """A function that has the name of an installed tool, and two installed tools of one name, are warnings."""
    for name in ("one", "two"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[sluiceway.tools]\ngood = mine:good\nother = mine:good\n")
    status, lines = await checked(tmp_path, tools={"functions": {"good": "mine:good"}})
    assert status == 0
    assert lines == [
        'warning: tools.functions.good: "mine:good" — hides the tool of this name of an installed distribution',
        'warning: tools: "other" — 2 installed distributions have a tool of this name: one is offered',
    ]
