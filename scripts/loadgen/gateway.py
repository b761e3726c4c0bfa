"""The gateway under load: how it is started, and how it is watched through /proc and /metrics."""

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.processes import PAGE, ROOT, SCRIPTS, Child, tree_cpu, wait_until
from ports import free_port

from .plan import Plan

# Only what a run needs. Every other setting has its default.
CONFIG = """
[server]
port = %(port)d
max_streams = 20000
drain_notice = 0.0

[flow]
drain_timeout = %(drain_timeout)g

[streams]
retention = %(retention)g
total_timeout = 3600.0

[[upstreams]]
name = "load"
base_url = "http://127.0.0.1:%(upstream)d/v1"

[[models]]
name = "*"
targets = ["load/*"]

[recovery]
strategy = "restart"
max_retries = 3
backoff = 0.1
breaker_failures = %(failures)d
"""


@dataclass(frozen=True)
class Gateway:
    """A running gateway. `pid` is 0 if it is not known."""

    port: int
    pid: int

    def memory(self) -> int:
        """Return the bytes of resident memory; 0 if unknown."""
        with suppress(OSError, IndexError):
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE
        return 0

    def descriptors(self) -> int:
        """Return the number of open descriptors; 0 if unknown."""
        with suppress(OSError):
            return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        return 0

    def cpu(self) -> float:
        """Return the seconds of CPU used; 0 if unknown."""
        return tree_cpu(self.pid) if self.pid else 0.0

    def tasks(self) -> int:
        """Return the number of asyncio tasks from /metrics; 0 if unknown."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            for line in answer:
                if line.startswith(b"sluiceway_tasks "):
                    return int(float(line.split()[1]))
        return 0


@contextmanager
def upstream(folder: Path, port: int = 0) -> Iterator[int]:
    """Run the upstream until the end of the block; yield its port."""
    port = port or free_port()
    command = [sys.executable, "-m", "lab.upstream", str(port)]
    with Child("upstream", command, cwd=SCRIPTS, log=folder / "upstream.log") as child:
        wait_until(lambda: _answers(port, "/closed"), child)
        yield port


@contextmanager
def gateway(plan: Plan, upstream_port: int, folder: Path, more: str = "") -> Iterator[Gateway]:
    """Run a gateway in front of the upstream until the end of the block. `more` is added to its configuration."""
    port = free_port()
    config = folder / "gateway.toml"
    config.write_text(
        CONFIG
        % {
            "port": port,
            "upstream": upstream_port,
            "drain_timeout": plan.drain_timeout,
            "retention": plan.retention,
            # Faults are made on purpose, beside other streams. An attack must not open a circuit even so.
            "failures": 5 if plan.attacks else 1_000_000,
        }
        + more
    )
    # It inherits the limit of descriptors, which __main__ has raised.
    command = [sys.executable, "-m", "server", "serve", "--config", str(config)]
    with Child("gateway", command, cwd=ROOT, log=folder / "gateway.log") as child:
        wait_until(lambda: _answers(port, "/readyz"), child)
        yield Gateway(port, child.pid)


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:  # also any other status
        return False
