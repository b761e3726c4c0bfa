"""Private parts: a check that fails, or a user that finds a part changed, gives one warning and the plain way."""

import pytest
import structlog
from library_changes import CHANGES, PARTS

from server.aio import private_part
from server.aio.private_part import PrivatePart, completed, expect, warn_of_changes


@pytest.fixture(autouse=True)
def no_parts_but_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_part, "_parts", [])


def test_a_part_that_is_as_expected() -> None:
    """It is usable, and nothing is logged."""
    part = PrivatePart("a part", lambda: expect(True, "never"), instead="the plain way")
    with structlog.testing.capture_logs() as logs:
        warn_of_changes()
    assert (part.usable, part.problem, logs) == (True, None, [])


def test_a_part_that_is_not_as_expected() -> None:
    """It is not usable. That is logged when it is asked for, not at import, and once."""
    with structlog.testing.capture_logs() as logs:
        part = PrivatePart("a part", lambda: expect(False, "it is gone"), instead="the plain way")
        assert logs == []
        warn_of_changes()
        warn_of_changes()
    assert not part.usable
    assert logs == [
        {
            "event": "private part changed",
            "part": "a part",
            "problem": "LookupError: it is gone",
            "instead": "the plain way",
            "log_level": "warning",
        }
    ]


def test_a_check_may_fail_with_anything() -> None:
    """A part that is gone raises what it likes."""
    part = PrivatePart("a part", [].pop, instead="the plain way")
    assert part.problem == "IndexError: pop from empty list"


def test_a_part_that_its_user_finds_changed() -> None:
    """It is not usable from then on, which is logged at once, and once."""
    part = PrivatePart("a part", lambda: None, instead="the plain way")
    with structlog.testing.capture_logs() as logs:
        part.lost("it is gone")
        part.lost("it is gone")
        warn_of_changes()
    assert (part.usable, [one["problem"] for one in logs]) == (False, ["it is gone"])


def test_completed() -> None:
    """A coroutine that has nothing to wait for gives its result, and one that waits is an error."""

    class Turn:
        def __await__(self):
            yield

    async def waits() -> None:
        await Turn()

    async def works() -> int:
        return 1

    assert completed(works()) == 1
    with pytest.raises(RuntimeError, match="suspended"):
        completed(waits())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_installed_libraries_are_as_expected(part: PrivatePart) -> None:
    """With the versions that setup.cfg allows no part takes the plain way."""
    assert part.problem is None


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "factory"])
def test_each_change_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The check of a part fails when the library has changed, and succeeds again with the library as it was."""
    change, part = CHANGES[name]
    with monkeypatch.context() as patch:
        change(patch)
        part.look()
        assert not part.usable
    part.look()
    assert part.usable
