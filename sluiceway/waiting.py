"""The two waits of a transport, each as a pair: the async one, and its sync twin."""

import time
from contextlib import AbstractContextManager, nullcontext

import anyio

STOPPING = 2.0  # seconds for the request that aborts a stream

async_sleep = anyio.sleep
sleep = time.sleep


def async_while_stopping() -> AbstractContextManager[object]:
    """Bound the last request of a stream. It also runs when its program is being cancelled."""
    return anyio.move_on_after(STOPPING, shield=True)


def while_stopping() -> AbstractContextManager[object]:
    """Do nothing: the timeouts of the request itself bound it."""
    return nullcontext()
