"""The packages of examples/, installed as a third party would: by pip, into a folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> str:
    """Install all examples; return the folder, for PYTHONPATH."""
    # Copies: building leaves files beside the sources.
    sources = shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("sources"), dirs_exist_ok=True)
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    packages = [str(folder) for folder in sorted(sources.iterdir()) if (folder / "pyproject.toml").exists()]
    subprocess.run([*pip, "--target", str(target), *packages], check=True, timeout=100)
    return str(target)
