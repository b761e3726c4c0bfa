"""One log line per stream that has ended, with all that billing and debugging need, and the end of its span."""

import structlog

from server.core.records import Ending
from server.relay.relay import Relay
from server.relay.stream import Stream
from server.telemetry.logs import shown_reason

log = structlog.get_logger("sluiceway")


def account(stream: Stream, relay: Relay, ending: Ending | None) -> None:
    """End the span, and write the line. `ending` is the relay's own: without it another process goes on."""
    progress = relay.progress
    facts = {
        "bytes": stream.log.size,
        "drain_ms": round(stream.drained * 1000, 1),
        "attempts": progress.attempts,
    }
    if progress.span is not None:
        progress.span.end(ending, facts)
    if ending is None:
        return
    log.info(
        "stream ended",
        stream_id=stream.id,
        request_id=stream.beginning.request_id,
        owner=stream.beginning.key_name,
        model=stream.beginning.model,
        target=ending.target,
        state=ending.state.value,
        reason=shown_reason(ending),
        records=stream.log.tail,
        **facts,
        tokens=ending.tokens,
        ttft_ms=ending.ttft_ms,
        duration_ms=None if progress.duration is None else round(progress.duration * 1000, 1),
        phases_ms=None if progress.phases is None else progress.phases.milliseconds(),
        recoveries=ending.recoveries,
        usage=ending.usage,
        billed=ending.billed,
    )
