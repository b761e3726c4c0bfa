"""The configuration reference."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_reference_is_the_settings_own():
    """docs/configuration.md is what the script makes of the present settings."""
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "config_reference.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (ROOT / "docs" / "configuration.md").read_text() == made.stdout
