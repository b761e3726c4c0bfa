"""Clients and transports for httpx2, which OpenAI's SDK uses from version 3 on."""

from sluiceway.httpx2.aio import AsyncResumingTransport, resuming_http_client
from sluiceway.httpx2.sync import ResumingTransport, resuming_sync_http_client

__all__ = ["AsyncResumingTransport", "ResumingTransport", "resuming_http_client", "resuming_sync_http_client"]
