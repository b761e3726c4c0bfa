"""A log that waits in a batch to be created."""

from server.core.records import Beginning, dump_beginning
from server.stores.group_commit import Write


class Creation(Write):
    """A log that waits to be created. The answer says which one the store has: this, or the one of its key.

    Its facts are serialised before it is put into a batch. One that cannot be written must not fail the others.

    Raises:
        StoreError: they cannot be written.

    """

    __slots__ = ("beginning", "facts")

    def __init__(self, beginning: Beginning) -> None:
        super().__init__()
        self.beginning = beginning
        self.facts = dump_beginning(beginning)
