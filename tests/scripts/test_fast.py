"""`./scripts/test --fast` runs the test files that need no other program, and no other file."""

import subprocess
import sys
from pathlib import Path

import fast
import pytest
from gateway import ROOT


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("def test_one(): assert 1", False),
        ("from gateway import tree", False),
        ("from gateway import in_process", True),
        ("import subprocess", True),
        ("import asyncio\nasync def test_one(): await asyncio.create_subprocess_exec('true')", True),
        ("async def test_one(provider): pass", True),
        ("from nginx import nginx", True),
        ("from node import node", True),
        ("from chromium import console", True),
        ("from redis_server import running", True),
        ("from local_model import LocalModel", True),
        ("from snippets import run", True),
    ],
)
def test_what_a_file_needs(tmp_path: Path, code: str, needed: bool) -> None:
    """A file needs something if it starts it, or asks for a fixture or a module of tests/support that does."""
    file = tmp_path / "test_it.py"
    file.write_text(code)
    assert fast.needs_nothing(file) is not needed


def test_the_core_is_fast() -> None:
    """All that is pure is among them: a change of it is seen at once."""
    for folder in ("core", "config"):
        slow = [path.name for path in (ROOT / "tests" / folder).rglob("test_*.py") if not fast.needs_nothing(path)]
        assert slow == [], folder


def test_a_program_cannot_be_started() -> None:
    """What the names do not show fails when it runs."""
    code = "import fast, subprocess; fast.forbid_programs(); subprocess.run(['true'])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=fast.SUPPORT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "a test of --fast starts" in ran.stderr
