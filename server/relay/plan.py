"""After a failure, a strategy decides. Its decision is checked, and becomes the plan of the next attempt.

A strategy may be a third party's. Whatever it raises or returns must not hang a stream or mix two texts.
"""

import dataclasses
import math
import random
from dataclasses import dataclass, field
from typing import Any

import structlog

from server.config.settings import Recovery
from server.core.errors import UpstreamError
from server.core.generation import Generation
from server.core.openai.intake import Seam
from server.core.openai.transcript import Transcript
from server.core.ports import Continue, Decision, Delivered, Failure, GiveUp, Restart, Resume, Retry, Strategy
from server.core.recovery import continuation
from server.core.recovery.seam import Suppression, Texts
from server.core.replay import LoggedTurn, running
from server.relay.progress import Progress
from server.relay.running import Rest
from server.relay.stream import Stream
from server.relay.tries import Tries
from server.telemetry.logs import cause

log = structlog.get_logger("sluiceway.recovery")


class NonsenseError(ValueError):
    """A strategy's decision cannot be carried out. The message says why."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How this gateway recovers: the strategy, and the settings that bound its decisions."""

    strategy: Strategy
    recovery: Recovery


@dataclass(slots=True)
class Plan:
    """The next attempt: its target, the changes to the request, and how its text joins the delivered text."""

    target: int
    wait: float = 0.0  # seconds
    seam: Seam | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    recovery: str = ""  # "resume", "restart" or "continue" if a text was delivered before
    rest: Rest | None = None  # the rest of an answer is asked for, and no new answer
    takeover: bool = False  # an earlier relay delivered the text and is gone; no attempt of this one failed


class Planner:
    """Plans the attempts of one turn."""

    def __init__(self, stream: Stream, generation: Generation, tries: Tries, rules: Rules, progress: Progress) -> None:
        self._stream = stream
        self._generation = generation
        self._tries = tries
        self._strategy = rules.strategy
        self._settings = rules.recovery
        self._progress = progress

    async def after(
        self,
        failed: int,
        error: UpstreamError,
        transcript: Transcript,
        *,
        takeover: bool = False,
        rest: Rest | None = None,
    ) -> Plan:
        """Return the plan that follows the failure of target number `failed`.

        `takeover`: no attempt of this relay failed. The earlier relay, which is gone, had asked that target.
        `rest`: the target goes on with its answer, and this is how the rest of it can be asked for.

        Raises:
            UpstreamError: the first cause, if the strategy gives up or its decision cannot be carried out.

        """
        transcript.reopen()
        told = await self._told() if transcript.begun else LoggedTurn(transcript)
        calls, first = transcript.calls, transcript.first
        if self._stream.dialect.whole_calls:
            _forget_calls(transcript, told)
        if rest is not None and rest.intake is None and transcript.begun and not _repeatable(transcript, told):
            rest = None
        try:
            failure = self._describe(failed, error, told, transcript)
            failure = dataclasses.replace(failure, takeover=takeover, resumable=rest is not None)
            decision = self._strategy.decide(failure)
            plan = self._checked(decision, failure, told, transcript, rest)
        except Exception as fault:  # noqa: BLE001 — third-party code may raise anything; the stream still needs its ending
            name = self._settings.strategy
            log.error("strategy failed", stream_id=self._stream.id, strategy=name, **cause(fault))
            plan = None
        if plan is None:
            raise self._tries.final_error(failed, error) from error
        if plan.rest is not None and plan.rest.intake is not None:
            transcript.calls, transcript.first = calls, first  # the calls that broke off go on as well
        return plan

    def is_last_resort(self, target: int, transcript: Transcript) -> bool:
        """Whether nobody else would be asked if a target that is being asked were silent from now on.

        The strategies, the budget, the circuits or the delivered calls may forbid it.
        """
        settings = self._settings
        if settings.strategy == "none" or self._tries.is_last(target, settings.max_retries):
            return True
        if not transcript.begun:
            return False
        told_calls = transcript.calls and not self._stream.dialect.whole_calls
        return settings.strategy == "retry" or told_calls or self._stream.recoveries >= settings.max_recoveries

    def _checked(
        self, decision: Decision, failure: Failure, told: LoggedTurn, transcript: Transcript, rest: Rest | None
    ) -> Plan | None:
        """Return the plan for a decision, or None for `GiveUp`. Raises NonsenseError."""
        if isinstance(decision, GiveUp):
            return None
        if not isinstance(decision, Retry | Resume | Restart | Continue):
            raise NonsenseError(f"{decision!r} is no decision")
        target = failure.target if isinstance(decision, Retry | Resume) else decision.target
        self._check_wait(decision.wait)
        if isinstance(decision, Resume) and rest is None:
            raise NonsenseError(f"target {target} does not go on with its answer")
        if not isinstance(decision, Resume):
            self._check(target)
            rest = None
        if not transcript.begun:
            return Plan(target, decision.wait, rest=rest)
        if not failure.takeover and self._stream.recoveries >= self._settings.max_recoveries:
            raise NonsenseError("max_recoveries is used up")
        if rest is not None and rest.intake is not None:
            return Plan(target, decision.wait, rest.seam, recovery="resume", rest=rest)
        if not _repeatable(transcript, told):
            raise NonsenseError("the delivered answer cannot be repeated")
        texts = told.texts
        if isinstance(decision, Continue):
            return self._continued(target, decision.wait, texts, transcript)
        recovery = "restart" if rest is None else "resume"
        seam = Suppression(texts, transcript.finish, told.others)
        return Plan(target, decision.wait, seam, recovery=recovery, rest=rest)

    def _check(self, target: object) -> None:
        if not (isinstance(target, int) and 0 <= target < len(self._tries)):
            raise NonsenseError(f"there is no target {target!r}")
        if self._tries.attempts(target) > self._settings.max_retries:
            raise NonsenseError(f"target {target} has had all its attempts")

    def _check_wait(self, wait: object) -> None:
        if not (isinstance(wait, int | float) and math.isfinite(wait) and 0 <= wait <= self._progress.time_left):
            raise NonsenseError(f"the stream cannot wait for {wait!r} seconds")

    def _continued(self, target: int, wait: float, texts: Texts, transcript: Transcript) -> Plan:
        form = self._tries[target].settings.continuation
        if form == "none":
            raise NonsenseError(f"target {target} cannot continue")
        text = texts.get((0, "content"), "")
        changes, seam = continuation.changes(form, self._generation.body, text, transcript.tokens)
        return Plan(target, wait, seam, changes, recovery="continue")

    async def _told(self) -> LoggedTurn:
        return running(await self._stream.turns(self._generation.choices))

    def _describe(self, index: int, error: UpstreamError, told: LoggedTurn, transcript: Transcript) -> Failure:
        generation, settings = self._generation, self._settings
        return Failure(
            kind=error.kind,
            same=error.trait.same,
            other=error.trait.other,
            retry_after=error.retry_after,
            target=index,
            targets=self._tries.views(),
            delivered=Delivered(
                tokens=transcript.tokens,
                characters=sum(len(text) for text in told.texts.values()),
                others=sum(told.others.values()),
                reasoning=transcript.reasoning,
                calls=transcript.calls,
                structured=generation.structured,
                choices=generation.choices,
                tools=bool(generation.body.get("tools")),
            ),
            recoveries=self._stream.recoveries,
            diverged=self._tries.diverged,
            time_left=self._progress.time_left,
            client_present=self._stream.wanted,
            max_retries=settings.max_retries,
            max_recoveries=settings.max_recoveries,
            backoff=settings.backoff,
            jitter=random.random(),  # noqa: S311 — it spreads retries and protects no secret
        )


def _repeatable(transcript: Transcript, told: LoggedTurn) -> bool:
    """Whether an answer from the start can be joined to what was delivered."""
    return not transcript.calls and bool(told.texts or told.others or transcript.finish)


def _forget_calls(transcript: Transcript, told: LoggedTurn) -> None:
    """Forget the calls of a broken attempt. No client saw them, so another attempt may make them again."""
    transcript.calls = False
    if not (told.texts or told.others):
        transcript.first = {}
