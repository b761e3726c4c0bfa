"""A strategy that never waits: whatever fails, the next target that was not asked yet is, at once."""

from server.core.ports import Decision, Failure, GiveUp, Restart


class NextTarget:
    """`[recovery] strategy = "next-target"`."""

    def decide(self, failure: Failure) -> Decision:
        """Take the next fresh target; never past a delivered tool call, which the client may have run already."""
        if failure.delivered.calls or not failure.other or not failure.client_present:
            return GiveUp()
        for index, target in enumerate(failure.targets):
            if target.available and not target.attempts:
                return Restart(index)
        return GiveUp()
