"""What a stream's log tells a relay that did not write it: the request, and what was said so far."""

from collections.abc import Sequence

import orjson

from server.core.generation import Generation
from server.core.native import REASONING, TOKEN, TOOL_CALL, TOOL_RESULT
from server.core.openai.transcript import Transcript
from server.core.records import CHUNK, Beginning, Record


def generation_of(beginning: Beginning) -> Generation:
    """Return the request that a stream began with; of the headers that were passed on only its id is kept."""
    body = orjson.loads(beginning.body)
    options = body.get("stream_options")
    return Generation(
        form=beginning.form,
        model=beginning.model,
        body=body,
        stream=beginning.stream,
        policy=beginning.policy,
        choices=body.get("n") or 1,
        trace=(("x-request-id", beginning.request_id),) if beginning.request_id else (),
        request_id=beginning.request_id,
        show_usage=beginning.form == "openai" and isinstance(options, dict) and bool(options.get("include_usage")),
    )


def transcript_of(beginning: Beginning, records: Sequence[Record], choices: int) -> tuple[Transcript, int]:
    """Return what the running turn has said, and how many tokens the turns before it (of a tool conversation) had."""
    transcript, before = Transcript(choices), 0
    if beginning.form == "openai":
        for kind, data in records:
            if kind == CHUNK:
                transcript.observe(orjson.loads(data))
        transcript.usage = None  # of an attempt that is gone, and not billed again
        return transcript, before
    for kind, data in records:
        if kind in (TOOL_CALL, TOOL_RESULT) and transcript.begun:
            before += transcript.tokens
            transcript = Transcript(choices)
        elif kind == TOKEN and "field" not in orjson.loads(data):
            transcript.tokens += 1
        elif kind in (TOKEN, REASONING):
            transcript.first = transcript.first or {"id": ""}
            transcript.reasoning = transcript.reasoning or kind == REASONING
    return transcript, before
