"""The command line itself; what its commands do is tested beside them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STARTS = """
import gc, sys
from server.app import Gateway
from server.cli import main
async def serve(self, read, passed):
    print(gc.isenabled(), gc.get_freeze_count() > 1000)
Gateway.serve = serve
sys.exit(main(["serve", "--config", sys.argv[1]]))
"""
CODE = """
import sys
from server.cli import main
status = main(["streams", "--once", "--url", "http://127.0.0.1:1"])
print(status, *sorted({"aiohttp", "openai", "pydantic", "server.app"} & set(sys.modules)))
"""


def test_a_client_starts_without_the_gateway() -> None:
    """A client's command imports nothing of the gateway's or the SDK's: it would wait a second for them."""
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["1"]
    assert "cannot be reached" in ran.stderr


def test_a_gateway_collects_its_garbage() -> None:
    """What the start has made is left alone, what comes after it is looked at."""
    ran = subprocess.run(
        [sys.executable, "-c", STARTS, "config.toml"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["True", "True"], "", 0)
