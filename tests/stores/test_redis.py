"""The Redis store passes the contract, on a real server."""

import pytest
from contract import DurableContract
from redis_server import RedisServer

from server.stores.redis import RedisStore


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the contract."""
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.kill()


class TestRedis(DurableContract):
    """All of it."""

    @pytest.fixture(autouse=True)
    def _empty(self, server):
        self.url = server.url
        server.call("FLUSHALL")

    def new(self, settings):
        return RedisStore(settings)

    def tables(self, tmp_path):
        return {"kind": "redis", "url": self.url}
