"""What the command lines of several experiments have in common."""

import argparse
import resource
from collections.abc import Callable, Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def number(kind: Callable[[str], Number], low: float, high: float) -> Callable[[str], Number]:
    """Return the type of an argument that is a number between these bounds, both included."""

    def number(text: str) -> Number:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the type of an argument that is a list of these names, with commas between them."""
    known = tuple(known)

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return chosen

    return names


def most_descriptors() -> int:
    """Allow this process and its children as many descriptors as the system lets it; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
