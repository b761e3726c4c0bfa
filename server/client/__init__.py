"""HTTP clients for OpenAI's SDK whose streams survive broken connections.

    from openai import AsyncOpenAI
    from server.client import resuming_http_client

    client = AsyncOpenAI(http_client=resuming_http_client(base_url="http://127.0.0.1:8080/v1"))

Streams go on after dropped connections, restarts and deploys of the gateway. No chunk is lost or repeated. If a stream
cannot go on, it ends with an error event of code `stream_lost`, which the SDK raises as its `APIError`.
"""

from server.client.clients import resuming_http_client, resuming_sync_http_client
from server.client.outage import Patience
from server.client.transport import AsyncResumingTransport, ResumingTransport

__all__ = [
    "AsyncResumingTransport",
    "Patience",
    "ResumingTransport",
    "resuming_http_client",
    "resuming_sync_http_client",
]
