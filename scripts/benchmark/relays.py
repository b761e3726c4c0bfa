"""How each relay is started: nginx, the gateway with one of its stores, the bare relay; and the upstream."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from lab import places
from lab.processes import Child

Store = Literal["memory", "sqlite", "redis"]
STORES: tuple[Store, ...] = get_args(Store)
PATHS = {"responses": "/v1/responses", "messages": "/v1/messages"}  # of a gateway that is asked in another dialect
GATEWAYS = (*STORES, *PATHS)


@dataclass(frozen=True)
class Relay:
    """A running relay."""

    name: str
    process: Child
    folder: Path  # its files

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.process.port

    @property
    def path(self) -> str:
        """Where it is asked."""
        return PATHS.get(self.name, "/v1/chat/completions")


def missing(name: str) -> str:
    """Return why a relay cannot run on this machine, or an empty text."""
    for relay, program in (("nginx", "nginx"), ("redis", "redis-server")):
        if name == relay and not places.program(program):
            return f"{program} is not installed"
    return ""


class Running:
    """The upstream and the relays that were asked for, each started once. It is a context manager that ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._relays: dict[str, Relay] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def upstream(self) -> Relay:
        """The benchmark upstream."""
        if "upstream" not in self._relays:
            child = self._stack.enter_context(places.module("lab.upstream", self._folder))
            self._relays["upstream"] = Relay("upstream", child, self._folder)
        return self._relays["upstream"]

    def relay(self, name: str) -> Relay:
        """Return the relay of this name."""
        if name not in self._relays:
            self._relays[name] = self._stack.enter_context(self.fresh(name, name))
        return self._relays[name]

    @contextmanager
    def fresh(self, name: str, folder: str = "fresh") -> Iterator[Relay]:
        """Run a new relay of this name until the end of the block."""
        with contestant(name, self.upstream.port, self._folder / folder) as relay:
            yield relay
        shutil.rmtree(self._folder / folder)


@contextmanager
def contestant(name: str, upstream_port: int, folder: Path) -> Iterator[Relay]:
    """Run ``nginx``, ``bare``, or the gateway by the name of its store or dialect, until the end of the block."""
    folder.mkdir(parents=True)
    address = f"127.0.0.1:{upstream_port}"
    with ExitStack() as stack:
        if name == "nginx":
            child = places.nginx([address], "proxy_read_timeout 300s;", folder)
        elif name == "bare":
            child = places.module("benchmark.bare_relay", folder, f"http://{address}")
        else:
            tables = gateway_tables("memory" if name in PATHS else name, f"http://{address}/v1", folder)
            if name == "redis":
                tables["store"]["url"] = f"redis://127.0.0.1:{stack.enter_context(places.redis(folder)).port}/0"
            child = places.gateway(tables, folder)
        yield Relay(name, stack.enter_context(child), folder)


def gateway_tables(store: str, base_url: str, folder: Path) -> dict[str, Any]:
    """Return a configuration with only what the benchmark needs. Every limit and timeout has its default."""
    return {
        "server": {"drain_notice": 0.0},
        "store": {"kind": store, "path": str(folder / "streams.db")},
        "upstreams": [{"name": "bench", "base_url": base_url}],
        "models": [{"name": "*", "targets": ["bench/*"]}],
    }
