"""The command line itself; what its commands do is tested beside them."""

import subprocess
import sys

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
