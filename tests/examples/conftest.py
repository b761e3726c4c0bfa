"""The packages of examples/, each installed as a third party would: by pip, into a folder of its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Callable[[str], str]:
    """Install an example; return the folder, for PYTHONPATH."""

    @cache
    def install(name: str) -> str:
        # A copy: building leaves files beside the sources.
        source = shutil.copytree(EXAMPLES / name, tmp_path_factory.mktemp("source") / name)
        target = tmp_path_factory.mktemp("installed")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=100)
        return str(target)

    return install
