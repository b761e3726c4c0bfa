"""One request of a plain path and its answer, from the first attempt to the last byte, and what is told of it."""

import dataclasses
import time
from typing import Any, Literal

import structlog
from aiohttp import web

from server.api.errors import REQUEST_ID, error_response
from server.api.plain.answer import Answer
from server.api.plain.attempts import Attempt, Attempts
from server.api.plain.outgoing import Outgoing
from server.config.settings import Flow
from server.core.errors import Rejected, UpstreamError

# `failed`: no target answered. `cut`: one broke off in the middle of its answer. `rejected`: the body that was being
# sent is wrong. `stalled`, `gone`: the client took nothing any more, or left.
Outcome = Literal["answered", "failed", "cut", "rejected", "stalled", "gone"]
log = structlog.get_logger("sluiceway")


class Exchange:
    """It is run once."""

    def __init__(self, request: web.Request, outgoing: Outgoing, attempts: Attempts, flow: Flow) -> None:
        self.outcome: Outcome = "gone"
        self.tokens: dict[str, int] | None = None  # by kind, if the answer counts them
        self._started = time.monotonic()
        self._request = request
        self._outgoing = outgoing
        self._attempts = attempts
        self._flow = flow
        self._answer: Answer | None = None
        self._attempt: Attempt | None = None
        self._status: int | None = None  # of the answer, or of its failure
        self._reason: str | None = None  # our own name of a failure

    async def run(self) -> web.StreamResponse:
        """Return the response, which has been sent already unless it is an error. Raises Rejected."""
        try:
            attempt = self._attempt = await self._attempts.answer()
        except UpstreamError as error:
            return self._failed(error)
        except Rejected as error:
            self.outcome, self._status, self._reason = "rejected", error.status, error.code
            raise
        try:
            answer = self._answer = Answer(self._request, attempt, self._flow, self._headers())
            self._status = answer.response.status
            self.outcome = await answer.run(watched=self._outgoing.whole)
        except UpstreamError as error:
            if (fault := self._outgoing.fault) is not None:  # the rest of its body: the upstream could not go on
                self.outcome, self._reason = "rejected", fault.code
            else:
                failure = dataclasses.replace(error)  # a copy, which knows no frames
                attempt.failed(failure)
                self.outcome, self._reason = "cut", failure.kind.value
        finally:
            attempt.settle(ok=True if self.outcome == "answered" else None)
            if self._answer is not None:
                self.tokens = self._answer.usage.tokens()
        return answer.response

    def _failed(self, error: UpstreamError) -> web.Response:
        """Return the response of a request that no target has answered."""
        self.outcome, self._status, self._reason = "failed", error.http_status, error.kind.value
        # If other targets could not be asked, because the upload was gone, the client may well try again.
        return error_response(error, self._headers(), final=self._outgoing.repeatable)

    def _headers(self) -> dict[str, str]:
        """Return the headers of the gateway's own, and those of the upstream that are passed on."""
        passed_on = {} if self._attempt is None else self._attempt.phases.passed_on
        target = self._attempts.target
        own = {"X-Request-Id": self._request[REQUEST_ID], **({"X-Sluiceway-Target": target} if target else {})}
        return {**passed_on, **own}

    def account(self, **facts: Any) -> None:
        """Write the line."""
        answer, attempt = self._answer, self._attempt
        log.info(
            "request ended",
            request_id=self._request[REQUEST_ID],
            path=self._request.path,
            **facts,
            target=self._attempts.target,
            outcome=self.outcome,
            status=self._status,
            reason=self._reason,
            attempts=self._attempts.count,
            bytes_in=self._outgoing.received,
            bytes_out=0 if answer is None else answer.passing.size,
            duration_ms=round((time.monotonic() - self._started) * 1000, 1),
            drain_ms=0.0 if answer is None else round(answer.passing.drained * 1000, 1),
            phases_ms=None if attempt is None else attempt.phases.milliseconds(),
            usage_tokens=self.tokens,
        )
