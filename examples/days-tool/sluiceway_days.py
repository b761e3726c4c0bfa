"""A tool is a function. The entry point has its name, the signature is its schema, the docstring its description."""

from datetime import date
from typing import Annotated

from pydantic import Field


def days_between(
    first: Annotated[date, Field(description="such as 2026-01-31")],
    second: Annotated[date, Field(description="such as 2026-02-28")],
) -> int:
    """Count the days from one date to another; negative if the second is the earlier one."""
    return (second - first).days
