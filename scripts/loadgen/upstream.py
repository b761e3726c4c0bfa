"""The benchmark's upstream with faults: ``cut:NAME`` or ``fails:NAME`` as a request's ``user`` breaks its first try."""

import resource
import sys

import uvloop
from benchmark.script import script
from benchmark.upstream import Connection, Provider, serve


class FaultyConnection(Connection):
    """One that breaks the first try of the streams that ask for it, and serves the second."""

    asked: set[str] = set()  # noqa: RUF012 — of the whole process: a second try comes on another connection

    def __init__(self, provider: Provider) -> None:
        super().__init__(provider)
        self._cut_at = 0  # tokens; 0: never

    def generate(self, body: dict[str, object]) -> None:
        """Begin the stream, or break it."""
        tag = str(body.get("user", ""))
        fault = tag.partition(":")[0]
        first = fault in ("cut", "fails") and tag not in self.asked
        if first:
            self.asked.add(tag)
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
