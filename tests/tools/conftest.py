"""The tools of `tool_examples` can be imported by the gateway under test."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
