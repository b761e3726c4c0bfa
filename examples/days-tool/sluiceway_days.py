"""A tool is a function: its name is the entry point's, its schema the signature, its description the docstring."""

from datetime import date
from typing import Annotated

from pydantic import Field


def days_between(
    first: Annotated[date, Field(description="such as 2026-01-31")],
    second: Annotated[date, Field(description="such as 2026-02-28")],
) -> int:
    """Count the days from one date to another; negative if the second is the earlier one."""
    return (second - first).days
