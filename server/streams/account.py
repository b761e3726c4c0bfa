"""One log line per stream that has ended, with all that billing and debugging need, and the end of its span."""

import structlog

from server.core.openai.usage import tokens_by_kind
from server.core.records import Ending
from server.relay.relay import Relay
from server.relay.stream import Stream
from server.telemetry.logs import shown_reason

log = structlog.get_logger("sluiceway")


def account(stream: Stream, relay: Relay, ending: Ending | None, served: str) -> None:
    """End the span, count the tokens, and write the line. `served` is the model as it is configured.

    `ending` is the relay's own: without it another process goes on.
    """
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
    tokens = tokens_by_kind(ending.billed) if ending.billed else None
    if tokens is not None:
        progress.metrics.count_usage(stream.beginning.key_name, served, tokens)
    log.info(
        "stream ended",
        stream_id=stream.id,
        request_id=stream.beginning.request_id,
        owner=stream.beginning.key_name,
        model=stream.beginning.model,
        served=served,
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
        usage_tokens=tokens,
    )
