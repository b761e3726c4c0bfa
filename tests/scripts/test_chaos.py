"""A short run of scripts/chaos with each durable store."""

import re
import subprocess
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent.parent.parent / "scripts" / "chaos"
MUST_BE_ZERO = ("lost", "repeated", "altered", "truncated", "unfinished")


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_nothing_is_lost(store):
    """Through nginx and two gateways that are killed, stopped and restarted, every text comes whole and once."""
    command = [CHAOS, "--seconds", "8", "--streams", "20", "--pause", "1.5", "--store", store, "--seed", "11"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    rows = dict(re.findall(r"\| \**([^|*]+?)\** \| \**(\d+)\** \|", ran.stdout))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {name: rows[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, "0")
    assert int(rows["streams"]) >= 20
    assert int(rows["streams"]) == int(rows["streams with a fault of their own"])
    assert any(name.startswith(("gateway", "redis")) for name in rows), "a process was broken"
