"""A process for test_sqlite to kill: appends to ten streams at a time, and prints what was confirmed."""

import asyncio
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from contract import DONE, beginning, ending  # noqa: E402  # after the path

from server.config.check import parse  # noqa: E402  # after the path
from server.core.records import Record  # noqa: E402  # after the path
from server.stores.sqlite.store import SqliteStore  # noqa: E402  # after the path


async def stream(store: SqliteStore, length: int) -> None:
    """Write streams of so many records, one after the other."""
    while True:
        log = await store.create(beginning())
        for n in range(1, length):
            await log.append([Record("chunk", b"%d" % n)])
            print(log.beginning.id, n, flush=True)  # noqa: T201  # its parent reads it
        await log.append(DONE, ending())
        print(log.beginning.id, length, flush=True)  # noqa: T201


async def main(path: Path) -> None:
    """Write until this process is killed."""
    tree = {
        "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"name": "*", "targets": ["local/*"]}],
        "store": {"kind": "sqlite", "path": str(path)},
    }
    store = SqliteStore(parse(tree, {}))
    await store.open()
    print("ready", flush=True)  # noqa: T201
    await asyncio.gather(*(stream(store, length) for length in range(2, 60, 6)))


asyncio.run(main(Path(sys.argv[1])))
