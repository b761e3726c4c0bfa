"""The benchmark's upstream with faults.

The `user` of a request, `cut:NAME` or `fails:NAME`, breaks its first try, and `spoils:NAME` each try.
"""

import resource
import sys

import uvloop
from benchmark.script import script
from benchmark.upstream import Connection, Provider, serve


class FaultyConnection(Connection):
    """Breaks the first try of the requests that ask for that, and serves the second."""

    broken: set[str] = set()  # noqa: RUF012 — shared by all connections: a second try comes on another one

    def __init__(self, provider: Provider) -> None:
        super().__init__(provider)
        self._cut_at = 0  # tokens; 0: never

    def generate(self, body: dict[str, object]) -> None:
        """Begin the stream, or break it."""
        tag = str(body.get("user", ""))
        fault = tag.partition(":")[0]
        if fault == "spoils":
            self.say("500 Internal Server Error", b'{"error":{"message":"spoilt by its request"}}')
            return
        first = fault in ("cut", "fails") and tag not in self.broken
        if first:
            self.broken.add(tag)
        self._cut_at = script(str(body["model"])).tokens // 2 if first and fault == "cut" else 0
        if first and fault == "fails":
            self.say("500 Internal Server Error", b'{"error":{"message":"broken on purpose","type":"server_error"}}')
        else:
            super().generate(body)

    def step(self) -> bool:
        """Write the next token, or cut the connection in the middle of the answer."""
        if self._cut_at and self._sent >= self._cut_at:
            self._transport.abort()
            return False
        return super().step()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(int(sys.argv[1]), FaultyConnection))
