"""The clients, under the name that they had first. Programs import `sluiceway` (the distribution sluiceway-client)."""

from sluiceway.httpx2 import AsyncResumingTransport, ResumingTransport, resuming_http_client, resuming_sync_http_client
from sluiceway.outage import Patience

__all__ = [
    "AsyncResumingTransport",
    "Patience",
    "ResumingTransport",
    "resuming_http_client",
    "resuming_sync_http_client",
]
