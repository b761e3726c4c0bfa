"""The experiments are scripts, so that anyone can run them in full: `scripts/faults`, `scripts/model_kills`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
