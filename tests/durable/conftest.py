"""Tests of durable streams run over both durable stores."""

import pytest
from redis_server import running

LEASE = 1.0  # seconds


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """One server, with an append-only file."""
    with running(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    """The table of an empty store, with a short lease."""
    if request.param == "sqlite":
        return {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": LEASE}
    server = request.getfixturevalue("redis")
    server.call("FLUSHALL")
    return {"kind": "redis", "url": server.url, "lease": LEASE}
