"""A recovery strategy that never waits: after any failure it asks the next target that was not asked yet, at once."""

from server.core.ports import Decision, Failure, GiveUp, Restart


class NextTarget:
    """The strategy for `[recovery] strategy = "next-target"`."""

    def decide(self, failure: Failure) -> Decision:
        """Ask the next new target. Give up after a delivered tool call, because the client may have run it already."""
        if failure.delivered.calls or not failure.other or not failure.client_present:
            return GiveUp()
        for index, target in enumerate(failure.targets):
            if target.available and not target.attempts:
                return Restart(index)
        return GiveUp()
