"""One request to the model. Its targets are asked, as often as it takes, until the answer is whole.

One routine drives the first attempt and every later one. After each failure a strategy decides, and the turn acts.
"""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from functools import partial

import structlog

from server.core.dialect import Writer
from server.core.errors import TRAITS, Kind, UpstreamError
from server.core.generation import Generation, asks_usage
from server.core.lifecycle import State
from server.core.openai.intake import Intake
from server.core.openai.transcript import Transcript
from server.core.recovery.classify import refuses_background, refuses_usage
from server.core.recovery.present import present
from server.core.recovery.seam import Suppression, Trim
from server.core.recovery.silence import name_silence
from server.relay.attempt import Attempt, WholeAttempt
from server.relay.hedge import Step, race
from server.relay.plan import Plan, Planner, Rules
from server.relay.progress import Progress
from server.relay.running import Rest, Running
from server.relay.stream import Stream
from server.relay.tries import Tries
from server.upstreams.breaker import Fault
from server.upstreams.pool import Target

BODY_END = 32_768  # bytes
log = structlog.get_logger("sluiceway")


class Turn:
    """The attempts of one request, and their common transcript. A stream has one turn, or one more per tool round."""

    def __init__(
        self,
        stream: Stream,
        writer: Writer,
        generation: Generation,
        targets: Sequence[Target],
        rules: Rules,
        progress: Progress,
    ) -> None:
        self.generation = generation
        self.tries = Tries(targets)
        self.transcript = Transcript(generation.choices)
        self._stream = stream
        self._writer = writer
        self._progress = progress
        self._metrics = progress.metrics
        self._hedge_after = rules.recovery.hedge_after
        self._planner = Planner(stream, generation, self.tries, rules, progress)
        self.target = 0  # number of the target that answered
        self._answer: tuple[Plan, Attempt] | None = None  # the attempt that answered, with its plan, until it is closed
        self._unsettled: set[Attempt] = set()  # attempts that still hold a connection and a permit
        self._failed: Attempt | None = None  # the last one that failed, if it had a permit
        self._went_on = False  # the last attempt had a token
        self.running = Running(stream, self.tries, rules.recovery.max_retries)

    async def run(self, plan: Plan) -> None:
        """Carry out `plan`, and after a failure the next plan, until an answer is whole. `close` must follow.

        Raises:
            UpstreamError: the first cause, because nothing is left to try.
            StreamError: the stream cannot go on.
            StoreError: the log cannot be written or read.

        """
        while True:
            if plan.wait:
                await asyncio.sleep(plan.wait)
            await self._stream.room()  # no new attempt for a stalled client, which may never come back
            try:
                attempt = await self._attempt(plan)
            except UpstreamError as error:
                # A copy, which knows no frames. What a library raises while an error is handled knows that error (it is
                # its context), and the error knows the frames that it has passed, and by them this turn.
                failure = dataclasses.replace(error)
            else:
                self.target, self._answer = attempt.number, (plan, attempt)
                return
            plan = await self._recover(plan, failure)

    async def close(self) -> None:
        """Read the end of the answer, for a moment, and account for the attempt. Only the first call counts."""
        if self._answer is None:
            return
        (plan, attempt), self._answer = self._answer, None
        self.running.over()
        try:
            await attempt.tidy()
        finally:
            self._account(attempt, ok=True)
            self._settle(plan, has_token=True, outcome="recovered")

    def abandon(self) -> None:
        """Account for the attempt that answered, because its ending could not be logged."""
        if self._answer is not None:
            (plan, attempt), self._answer = self._answer, None
            self._account(attempt, ok=None)
            self._settle(plan, has_token=True, outcome="stopped")

    # --- after a failure -----------------------------------------------------------------------------------------

    async def _recover(self, failed: Plan, error: UpstreamError) -> Plan:
        """Return the next plan after a failure, and announce it. Raises UpstreamError, the first cause."""
        if failed.rest is not None and not self._went_on:
            return await self._recover_again(failed, failed.rest, error)
        rest = None if self._failed is None else self.running.broke_off(self._failed, failed.seam, error)
        plan = await self._planner.after(self.tries.failed_last, error, self.transcript, rest=rest)
        if plan.recovery:
            self._stream.recoveries += 1
        await self._announce(plan, error.kind.value)
        return plan

    async def _recover_again(self, failed: Plan, rest: Rest, error: UpstreamError) -> Plan:
        """Return the next plan if a request for the rest of an answer brought nothing. It is still the same recovery.

        What failed is the answer, as before: the strategy decides about that, and not about this request.
        """
        cut, counted = self.running.cut, bool(failed.recovery) and not failed.takeover
        assert cut is not None
        self._stream.recoveries -= counted
        try:
            plan = await self._planner.after(
                rest.target,
                cut,
                self.transcript,
                takeover=failed.takeover,
                rest=self.running.brought_nothing(rest, error),
            )
        finally:
            self._stream.recoveries += counted
        plan.takeover = failed.takeover
        if plan.rest is None:
            await self._announce(plan, error.kind.value)
        return plan

    async def take_over(self, target: int, error: UpstreamError) -> Plan:
        """Return the plan to go on from the text of an earlier relay, and announce it. Raises UpstreamError."""
        rest = self.running.inherited(error)
        plan = await self._planner.after(target, error, self.transcript, takeover=True, rest=rest)
        plan.takeover = True
        await self._announce(plan, "takeover")
        return plan

    async def _announce(self, plan: Plan, reason: str) -> None:
        """Show which target is asked next. If it joins delivered text, also log the announcement."""
        stream, target = self._stream, self.tries[plan.target]
        if not plan.recovery:
            stream.asks(target.name, "" if plan.rest is None else plan.rest.running)
            return
        stream.move(State.RECOVERING)
        exact = plan.recovery != "continue" or target.settings.continuation != "user_turn"
        announcement = {"strategy": plan.recovery, "target": target.name, "reason": reason, "exact": exact}
        await stream.append(self._writer.recovery(announcement))

    # --- one attempt, or two if it is hedged ---------------------------------------------------------------------

    async def _attempt(self, plan: Plan) -> Attempt:
        """Carry out a plan; return the attempt whose answer is whole, still open. Raises UpstreamError."""
        rest, bill = plan.rest, self._progress.bill
        if rest is None or rest.intake is None:
            self._writer.begin_attempt()
            bill.begin(self.transcript, continued=isinstance(plan.seam, Trim))
            self.running.cancel(*[(rest.target, rest.running)] if rest else [])
        else:
            bill.resume()
            self.running.cancel((rest.target, rest.running))
        before = self.transcript.tokens
        self._went_on, outcome = False, "stopped"
        has_token = rest is not None and rest.is_billed
        try:
            attempt = await self._first(plan)
            for loser in self._unsettled - {attempt}:  # both had a first token in the same moment
                self._account(loser, ok=None)
            if rest is None:  # of two attempts, one has lost
                self.running.cancel()
            has_token = self._went_on = True
            try:
                self._note_first_token(attempt)
                self._allow_time(attempt)
                await attempt.rest()
            except BaseException as error:
                self._judge(attempt, error)
                raise
        except BaseException as error:
            if isinstance(error, UpstreamError):
                delivered_more = self.transcript.tokens > before  # this failure comes after a recovery that worked
                outcome = "recovered" if delivered_more else "diverged" if error.kind is Kind.DIVERGED else "failed"
            # An attempt may have its first token although this task was cancelled before it heard of that.
            for unsettled in tuple(self._unsettled):
                self._account(unsettled, ok=None)
            self._settle(plan, has_token=has_token, outcome=outcome)
            raise
        return attempt

    async def _first(self, plan: Plan) -> Attempt:
        """Return the attempt that has the first token. Raises UpstreamError."""
        if plan.rest is not None and plan.rest.intake is not None:
            return await self._ask(plan, plan.target, plan.rest.intake.transcript)
        if not (self._hedge_after and self.generation.stream) or self.transcript.begun or plan.rest is not None:
            return await self._ask(plan, plan.target, self.transcript)
        # Each of the two has its own transcript until one of them has a token.
        choices = self.generation.choices

        def second() -> Step[Attempt] | None:
            spare = self.tries.spare(plan.target)
            return None if spare is None else self._ask(plan, spare, Transcript(choices))

        return await race(self._ask(plan, plan.target, Transcript(choices)), second, self._hedge_after)

    async def _ask(self, plan: Plan, number: int, transcript: Transcript) -> Attempt:
        """Make one request; return the attempt when it has its first token. Raises UpstreamError if it fails."""
        generation, target, rest = self.generation, self.tries[number], plan.rest
        self._progress.attempts += 1
        permit = self.tries.begin(number) if rest is None else self.tries.resume(number)
        self._stream.asks(target.name, "" if rest is None else rest.running)
        intake = None if rest is None else rest.intake
        if intake is None:
            intake = Intake(
                transcript,
                show_usage=generation.show_usage,
                seam=plan.seam,
                parsed=not self._writer.token_kind,
                translator=target.api.translator(),
            )
        kind = Attempt if generation.stream else WholeAttempt
        attempt = kind(number, target, permit, intake, self._stream, self._writer, self._metrics)
        self._unsettled.add(attempt)
        if self._progress.attempts == 1:
            attempt.phases.received = generation.received
        if self._progress.span is not None:
            attempt.span = self._progress.span.attempt(target.name)
        self._stream.label = target.label
        self._allow_time(attempt)
        try:
            await self._until_first_token(attempt, plan)
        except BaseException as error:
            self._judge(attempt, error, counts=rest is None)
            raise
        return attempt

    async def _until_first_token(self, attempt: Attempt, plan: Plan) -> None:
        """Send the request. If the upstream refuses a thing that it can do without, ask once more without that."""
        generation, target = self.generation, attempt.target
        headers = dict(generation.trace) if attempt.span is None else attempt.span.headers
        if further := target.api.headers(generation):
            headers = {**headers, **further}
        if plan.rest is not None:
            await attempt.resume(plan.rest.path, headers)
            return
        body_for = partial(
            target.api.body, generation, target.model, ask_usage=target.settings.usage, changes=plan.changes
        )
        client, model = target.client, target.model
        no_usage = client.refuses(model, "usage")
        asks = not no_usage and generation.stream and (target.settings.usage or asks_usage(generation.body))
        body = body_for(drop_usage=no_usage)
        in_background = None
        if generation.stream and not client.refuses(model, "background"):
            in_background = target.api.in_background(body, generation, target.settings.background)
        try:
            await attempt.first(in_background or body, headers)
        except UpstreamError as error:
            if in_background is not None and refuses_background(error):
                feature = "background"
            elif asks and refuses_usage(error):
                feature, body = "usage", body_for(drop_usage=True)
            else:
                raise
        else:
            return
        attempt.release()
        self._progress.attempts += 1
        await attempt.first(body, headers)
        client.note_refused(model, feature)

    def _allow_time(self, attempt: Attempt) -> None:
        """Let an attempt take longer if nobody else would be asked: giving up early would help nobody."""
        if self._planner.is_last_resort(attempt.number, attempt.transcript):
            attempt.be_patient()

    def _note_first_token(self, attempt: Attempt) -> None:
        """Note an attempt's first token. From here on its answer is the one that is delivered."""
        attempt.has_token = True
        self.transcript = attempt.transcript
        self._stream.asks(attempt.target.name, attempt.running)
        self._stream.passed_on = attempt.phases.passed_on
        self._stream.move(State.STREAMING)
        attempt.permit.answered(self._stream.beginning.owner)
        self._progress.note_first_token(attempt)

    # --- what becomes of an attempt ------------------------------------------------------------------------------

    def _judge(self, attempt: Attempt, error: BaseException, *, counts: bool = True) -> None:
        """Account for an attempt that has failed or was cancelled, and say in `error` whose failure it is.

        `counts`: the strategy decides about it.
        """
        target = attempt.target
        if isinstance(error, UpstreamError):
            self._name_silence(error, attempt)
            self._metrics.errors.labels(target.label, error.kind.value).inc()
            self._account(attempt, ok=False if error.trait.breaks else None, failure=error.kind)
            present(error, target.client.unquoted)
            request_id = error.request_id or attempt.phases.request_id
            error.request_id = target.client.unquoted(request_id) if request_id else None
            error.upstream = target.settings.name, target.name
            self._log_failure(target, error)
            if counts:
                self._failed = attempt
                self.tries.fail(attempt.number, error)
        elif self._ran_out_of_time(attempt):
            self._account(attempt, ok=False, failure=Kind.TTFT_TIMEOUT)
        else:
            self._account(attempt, ok=None)

    def _log_failure(self, target: Target, error: UpstreamError) -> None:
        """Log a failure of the upstream or of the gateway, without the upstream's words: they may quote a prompt."""
        if error.trait.breaks or error.kind is Kind.EXHAUSTED:
            log.warning(
                "attempt failed",
                stream_id=self._stream.id,
                target=target.name,
                kind=error.kind.value,
                status=error.status,
                reason=error.reason,
                upstream_request_id=error.request_id,
            )

    def _name_silence(self, error: UpstreamError, attempt: Attempt) -> None:
        """Make the error a timeout if the target was silent for long. A whole answer may take all of the time."""
        phases = attempt.phases
        limit = attempt.idle_timeout if attempt.has_token else attempt.ttft_timeout
        if not self.generation.stream:
            limit = self._progress.total_timeout
        since = phases.last_token if attempt.has_token else phases.started
        name_silence(error, time.monotonic() - since, limit, has_token=attempt.has_token)

    def _ran_out_of_time(self, attempt: Attempt) -> bool:
        """Whether an attempt had no token until the stream's total timeout.

        A request that is not streamed has no other timeout. So a long silence counts as the target's failure.
        """
        waited = time.monotonic() - attempt.phases.started
        silent = not attempt.has_token and waited >= attempt.target.ttft_timeout
        return silent and self._progress.time_left <= 0

    def _account(self, attempt: Attempt, *, ok: bool | None, failure: Kind | None = None) -> None:
        """Release an attempt's connection, and report its outcome to the circuit, the metrics and the trace."""
        self._unsettled.discard(attempt)
        if not ok:
            self.running.note(attempt)
        attempt.release()
        attempt.permit.settle(ok, None if failure is None else self._fault(attempt, failure))
        self._metrics.observe_phases(attempt.target.label, attempt.phases, self._stream.beginning, failure)
        if attempt.span is not None:
            attempt.span.end(attempt.phases, failure)

    def _fault(self, attempt: Attempt, kind: Kind) -> Fault:
        """Return the failure as the target's circuit sees it."""
        beginning = self._stream.beginning
        body = None
        if TRAITS[kind].suspect:
            text = beginning.body  # a large one is told from others by its length and its ends: to hash takes time
            body = hash((len(text), text[:BODY_END], text[-BODY_END:]))
        return Fault(kind.value, self._stream.id, beginning.owner, body, early=not attempt.has_token)

    def _settle(self, plan: Plan, *, has_token: bool, outcome: str) -> None:
        """Bill an attempt's answer, and count the outcome of a recovery."""
        self._progress.bill.settle(self.transcript, has_token=has_token, restarted=isinstance(plan.seam, Suppression))
        if plan.recovery:
            counter = self._metrics.takeovers if plan.takeover else self._metrics.recoveries
            counter.labels(plan.recovery, outcome).inc()
