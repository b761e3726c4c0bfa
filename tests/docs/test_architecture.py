"""ARCHITECTURE.md says what the linter holds, and names each file of its walk once."""

import re
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
ROW = re.compile(r"^\| (\d) \| `server/([\w.]+?)(?:\.py|/)` \|", re.MULTILINE)


def test_the_floors_are_those_of_the_linter() -> None:
    """The table has the rooms of import-linter's layers, floor by floor, and every room of `server/` is in it."""
    layers = CONTRACTS[0]["layers"]
    held = {floor: {room.strip() for room in layer.split("|")} for floor, layer in enumerate(reversed(layers))}
    shown: dict[int, set[str]] = {}
    for floor, room in ROW.findall(PAGE):
        shown.setdefault(int(floor), set()).add(f"server.{room}")
    assert shown == held
    rooms = {
        path.stem for path in (ROOT / "server").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {room for names in held.values() for room in names} == {
        f"server.{room}" for room in rooms - {"__init__", "__main__"}
    }


def test_the_walk_names_each_file_once() -> None:
    """A reader of the walk opens each file at one place, and every file is there."""
    walk = PAGE.partition("## A walk")[2].partition("## Who runs")[0]
    files = Counter(re.findall(r"`([\w/]+\.py)`", walk))
    assert [name for name, count in files.items() if count > 1] == []
    assert [name for name in files if not (ROOT / "server" / name).exists()] == []
    assert len(files) > 25
