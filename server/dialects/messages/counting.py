"""How many tokens a prompt has, as an upstream that speaks Messages counts it.

Source: https://platform.claude.com/docs/en/api/messages-count-tokens.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

from server.core.body import Body
from server.core.errors import UpstreamError
from server.core.timing import Phases
from server.core.wide_json import loads
from server.dialects.messages.upstream import NAME
from server.upstreams.pool import Target
from server.upstreams.translate import FOREIGN

PATH = "/messages/count_tokens"
PATIENCE = 5.0  # seconds for all targets together: an estimate is better than a client that waits
MAX_BYTES = 65_536  # of an answer


async def counted(source: Body, targets: Sequence[Target], headers: Mapping[str, str]) -> int | None:
    """Return the count of the first target that gives one in time; None if none does."""
    try:
        async with asyncio.timeout(PATIENCE):
            for target in targets:
                if target.api.name == NAME and target.breaker.available:
                    count = await _ask(source, target, headers)
                    if count is not None:
                        return count
    except TimeoutError:
        pass
    return None


async def _ask(source: Body, target: Target, headers: Mapping[str, str]) -> int | None:
    """Return the count of one target, or None if it fails: it may not know this path."""
    try:
        body = source.changed({"model": target.model})
        response = await target.client.relay(PATH, body, Phases(time.monotonic()), headers)
        try:
            data = bytearray()
            while len(data) < MAX_BYTES and (part := await response.content.readany()):
                data += part
        finally:
            response.release()
        answer = loads(data)
    except (UpstreamError, *FOREIGN):
        return None
    count = answer.get("input_tokens") if isinstance(answer, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None
