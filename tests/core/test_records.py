"""Where a reader goes on when a store has lost records."""

from hypothesis import given
from hypothesis import strategies as st

from server.core.records import resume_at, upper_bound

TAIL = 60
runs = st.sets(st.integers(1, TAIL), max_size=40).map(sorted)


def as_runs(numbers):
    found = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1] = (found[-1][0], n)
        else:
            found.append((n, n))
    return found


@given(runs, st.integers(0, TAIL))
def test_a_reader_sees_everything_that_is_left(lost, cursor):
    """From any cursor a reader that skips each gap reads exactly the records that were not lost."""
    spans, seen, at = as_runs(lost), [], cursor
    while True:
        at = resume_at(spans, at)
        end = upper_bound(spans, at, TAIL)
        if end <= at:
            break
        seen += range(at + 1, end + 1)
        at = end
    assert seen == [n for n in range(cursor + 1, TAIL + 1) if n not in lost]
