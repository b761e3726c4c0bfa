"""Runs one scenario: a warm-up, then every relay in turn, round after round, so that noise meets all alike."""

import sys
from dataclasses import dataclass
from statistics import median

from lab.machine import Machine

from .relays import Running
from .scenarios import Sample, Scenario, Setting

QUIET = 0.15  # cores that other processes may keep busy in a round that counts


@dataclass(frozen=True)
class Outcome:
    """The outcome of a scenario: for each relay that could run, a sample per round."""

    scenario: Scenario
    samples: dict[str, list[Sample]]
    others: list[float]  # cores that other processes kept busy in each round

    def typical(self, name: str) -> Sample:
        """Return the median of each figure over the rounds that count; empty for a relay that could not run."""
        return tuple(median(figures) for figures in zip(*self._counted(name), strict=True))

    def ratios(self) -> list[float]:
        """Return the subject's last figure over the baseline's in each round that counts; empty without a ratio."""
        return self._ratios_to(self.scenario.baseline)

    def _ratios_to(self, name: str) -> list[float]:
        subject, baseline = ([sample[-1] for sample in self._counted(each)] for each in (self.scenario.subject, name))
        if not subject or not baseline or min(baseline) <= 0:
            return []
        return [ours / theirs for ours, theirs in zip(subject, baseline, strict=True)]

    def met(self) -> bool | None:
        """Return whether the goal was met; None without a goal or a subject."""
        found = self.typical(self.scenario.subject)
        if self.scenario.ratio is not None:
            ratios = self.ratios()
            if not ratios or median(ratios) > self.scenario.ratio:
                return False if ratios else None
            to_bare = self._ratios_to("bare")
            return self.scenario.bare is None or not to_bare or median(to_bare) <= self.scenario.bare
        if not found or not self.scenario.limits:
            return None
        return all(figure < limit for figure, limit in zip(found, self.scenario.limits, strict=True))

    def _counted(self, name: str) -> list[Sample]:
        """Return the samples of the rounds with a quiet machine, or of all rounds if there was none."""
        samples = self.samples.get(name, [])
        quiet = [sample for sample, cores in zip(samples, self.others, strict=False) if cores < QUIET]
        return quiet or samples


def run(scenario: Scenario, names: list[str], rounds: int, running: Running, *, quick: bool) -> Outcome:
    """Measure the scenario on the relays of these names."""
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    setting = Setting(running.upstream, quick)
    if not scenario.fresh:
        for name in names:
            relay = running.relay(name)
            if not quick:
                scenario.measure(relay, Setting(running.upstream, quick=True))  # warm-up
    machine, others = Machine(), []
    for number in range(rounds):
        for name in names:
            if scenario.fresh:
                with running.fresh(name) as relay:
                    sample = scenario.measure(relay, setting)
            else:
                sample = scenario.measure(running.relay(name), setting)
            samples[name].append(sample)
            figures = " / ".join(f"{figure:.3g}" for figure in sample)
            print(f"{scenario.name} {number + 1}/{rounds} {name}: {figures} {scenario.unit}", file=sys.stderr)
        others.append(machine.others())
    return Outcome(scenario, samples, others)
