"""The scripts import each other as they do when they are run: from their own directory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
