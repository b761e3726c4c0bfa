"""The Lua scripts of the Redis store are files, and an installed package has them."""

from importlib.resources import files
from pathlib import Path

import pytest
from setuptools import Distribution

from server.stores.redis.scripts import SCRIPTS

ROOT = Path(__file__).parents[3]


def test_a_wheel_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What setup.cfg says about package data covers each file: without one of them no Redis store opens."""
    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files(["setup.cfg"])
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    packaged = {Path(file).name for _, _, _, names in command.data_files for file in names}
    lua = {file.name for file in files("server.stores.redis").joinpath("lua").iterdir()}
    assert len(lua) >= 9
    assert lua <= packaged


def test_each_says_what_it_does() -> None:
    """Each script begins with a comment, and those that delete have the function for it."""
    for name, text in SCRIPTS.items():
        assert text.startswith("-- ")
        assert ("local function delete(" in text) == (name in ("delete_ended", "disown", "sweep"))
