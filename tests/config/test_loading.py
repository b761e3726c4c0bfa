"""Code that a configuration names is loaded in one place, and what goes wrong is one sentence."""

import math
from importlib.metadata import EntryPoint

import pytest

from server.config.plugins import LoadError, load_object


def test_an_object_by_its_place() -> None:
    """By `"module:name"`, by a dotted name below it, and by an entry point."""
    assert load_object("math:sqrt") is math.sqrt
    assert load_object("os:path.join").__name__ == "join"
    assert load_object(EntryPoint("root", "math:sqrt", "some.group")) is math.sqrt


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("no_such_module:x", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:no_such_name", "AttributeError: module 'math' has no attribute 'no_such_name'"),
        ("not a place", "ValueError: invalid format: 'not a place'"),
        ("leaves:x", "SystemExit: 3"),
        ("fails:x", "KeyError: 'why'"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, monkeypatch, place, sentence) -> None:
    """Whatever an import does, it is one error: also if it would end the process."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    (tmp_path / "fails.py").write_text("raise KeyError('why')")
    with pytest.raises(LoadError) as caught:
        load_object(place)
    assert str(caught.value) == sentence
    assert caught.value.__cause__ is not None


def test_an_entry_point_that_cannot_be_loaded() -> None:
    """It is the same error."""
    with pytest.raises(LoadError, match="no_such_module"):
        load_object(EntryPoint("x", "no_such_module:x", "some.group"))
