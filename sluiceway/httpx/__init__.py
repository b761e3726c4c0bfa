"""Clients and transports for httpx, which OpenAI's SDK uses before version 3, and other SDKs."""

from sluiceway.httpx.aio import AsyncResumingTransport, resuming_http_client
from sluiceway.httpx.sync import ResumingTransport, resuming_sync_http_client

__all__ = ["AsyncResumingTransport", "ResumingTransport", "resuming_http_client", "resuming_sync_http_client"]
