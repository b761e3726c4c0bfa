"""Requests as the specification allows them. OpenAI's SDK has its types from there (openapi.yaml)."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import (
    CustomToolParam,
    EasyInputMessageParam,
    FunctionToolParam,
    ResponseCustomToolCallOutputParam,
    ResponseCustomToolCallParam,
    ResponseFunctionToolCallParam,
    ResponseInputItemParam,
    ResponseOutputMessageParam,
    ResponseReasoningItemParam,
    ToolParam,
)
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.responses.response_input_param import FunctionCallOutput, Message

from server.core.errors import Rejected
from server.dialects.responses.request import chat_body

MOST = 4  # values of an array: one of the values that stand for `object` is a range of 10 ** 18 numbers
# Most of the specification's items and tools are a hosted tool's. These are drawn as often.
OWN_ITEMS = st.one_of([
    st.from_type(kind)
    for kind in (
        EasyInputMessageParam, Message, ResponseOutputMessageParam, ResponseFunctionToolCallParam, FunctionCallOutput,
        ResponseCustomToolCallParam, ResponseCustomToolCallOutputParam, ResponseReasoningItemParam,
    )
])  # fmt: skip
ITEMS = st.lists(OWN_ITEMS | st.from_type(ResponseInputItemParam), max_size=3)
TOOLS = st.lists(st.from_type(FunctionToolParam) | st.from_type(CustomToolParam) | st.from_type(ToolParam), max_size=3)


def listed(value: Any) -> Any:
    """Give a value of the SDK's types as JSON has it: they have iterables for arrays, and `object` for anything."""
    if isinstance(value, dict):
        return {name: listed(inner) for name, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [listed(inner) for inner in islice(value, MOST)]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)  # as a number of that size is read
    return value if isinstance(value, str | int | float) else None


# Hypothesis now and then shows its strategies, which are large here.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(st.from_type(ResponseCreateParamsStreaming), ITEMS, TOOLS)
def test_any_request_of_the_specification(fields: Any, items: list[Any], tools: list[Any]) -> None:
    """Whatever the specification allows becomes a chat request that can be written, or is refused by name."""
    fields, items, tools = listed(fields), listed(items), listed(tools)
    for source in (fields, {"input": items}, {"tools": tools}, {**fields, "input": items, "tools": tools}):
        whole = {"input": "Hi.", **source, "model": "m"}
        try:
            translation = chat_body(whole)
        except Rejected as error:
            refusal: Rejected | None = error
        else:
            refusal = translation.refusal
            orjson.dumps(translation.body)
            assert refusal is not None or translation.body["messages"]
        if refusal is not None:
            assert refusal.status == 400
            assert refusal.param is not None
            assert refusal.param.partition(".")[0].partition("[")[0] in whole
