"""From a Messages request to a generation, when it comes in and when its log is read back."""

from collections.abc import Mapping
from typing import Any

from server.core.body import Body
from server.core.generation import Generation, logged_request
from server.core.openai.request import check_fields
from server.core.records import Beginning, Policy
from server.dialects.messages.fields import Unsaid, pass_over
from server.dialects.messages.request import chat_body
from server.dialects.messages.upstream import BETAS, NAME

BETA_HEADER = "anthropic-beta"
NO_HEADERS: Mapping[str, str] = {}


def generation_of(
    source: Mapping[str, Any],
    unsaid: Unsaid,
    policy: Policy,
    *,
    headers: Mapping[str, str] = NO_HEADERS,
    request_id: str = "",
    trace: tuple[tuple[str, str], ...] = (),
    received: float | None = None,
) -> Generation:
    """Return the generation that a request asks for. `headers` are for an upstream that speaks Messages.

    Raises:
        Rejected: 400, with the place of what is wrong, or, by `unsaid`, of what cannot be said.

    """
    body = chat_body(source, unsaid)
    check_fields(body)
    betas = headers.get(BETA_HEADER)
    return Generation(
        dialect=NAME,
        model=body["model"],
        body=body,
        stream=bool(body.get("stream")),
        policy=policy,
        trace=trace,
        request_id=request_id,
        received=received,
        # What takes the stream over must ask for the same betas.
        source=Body({**source, BETAS: betas} if betas else source),
        headers=tuple(headers.items()),
    )


def logged(beginning: Beginning) -> Generation:
    """Rebuild the request that a stream began with."""
    source, changed = logged_request(beginning)
    betas = source.get(BETAS)
    headers = ((BETA_HEADER, betas),) if isinstance(betas, str) else ()
    return Generation(
        dialect=beginning.dialect,
        model=beginning.model,
        body=chat_body(source, pass_over) if changed is None else changed,
        stream=beginning.stream,
        policy=beginning.policy,
        trace=(("x-request-id", beginning.request_id),) if beginning.request_id else (),
        request_id=beginning.request_id,
        source=source,
        changed=changed is not None,
        headers=headers,
    )
