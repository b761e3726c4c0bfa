"""HTTP clients for OpenAI's SDK whose streams survive broken connections.

    from openai import AsyncOpenAI
    from sluiceway import resuming_http_client

    client = AsyncOpenAI(http_client=resuming_http_client(base_url="http://127.0.0.1:8080/v1"))

Streams go on after dropped connections, restarts and deploys of the gateway. No chunk is lost or repeated. If a stream
cannot go on, it ends with an error event of code `stream_lost`, which the SDK raises as its `APIError`.

The clients are those of the HTTP library that the installed OpenAI SDK uses: httpx2, or httpx for a version before 3.
`sluiceway.httpx2` and `sluiceway.httpx` have the same two functions for one library, with its types.
"""

from typing import Any

from sluiceway.library import of_the_sdk
from sluiceway.outage import Patience

__version__ = "0.1.0"
__all__ = ["Patience", "resuming_http_client", "resuming_sync_http_client"]


def resuming_http_client(**options: Any) -> Any:
    """Return an `http_client` for `AsyncOpenAI`. The options are those of `sluiceway.httpx2.resuming_http_client`."""
    return of_the_sdk().resuming_http_client(**options)


def resuming_sync_http_client(**options: Any) -> Any:
    """Return an `http_client` for `OpenAI`: the sync twin of `resuming_http_client`."""
    return of_the_sdk().resuming_sync_http_client(**options)
