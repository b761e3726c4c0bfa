"""Tools to try the gateway with, and to copy from: `[tools.functions] now = "server.tools.examples:now"`."""

import ast
import asyncio
import operator
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}


def now(zone: Annotated[str, Field(description="IANA name of a time zone")] = "UTC") -> str:
    """Tell the current date and time in a time zone."""
    try:
        return datetime.now(ZoneInfo(zone)).isoformat(timespec="seconds")
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"There is no time zone {zone!r}.") from error


def calculate(
    expression: Annotated[str, Field(description="Numbers with + - * / % and parentheses", max_length=200)],
) -> float:
    """Work out an arithmetic expression."""
    return _value(ast.parse(expression, mode="eval").body)


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            result: float = OPERATORS[type(op)](_value(left), _value(right))
            return result
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            negated: float = OPERATORS[type(op)](_value(operand))
            return negated
    raise ValueError("Only numbers, + - * / % and parentheses are understood.")


async def wait(seconds: Annotated[float, Field(ge=0, le=60)]) -> str:
    """Wait, and say so: shows that a stream stays alive while a tool runs."""
    await asyncio.sleep(seconds)
    return f"Waited {seconds:g} seconds."
