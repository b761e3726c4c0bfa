"""From a function to a tool: its schema, its arguments, its result."""

import pytest
import tool_examples

from server.tools import examples
from server.tools.tool import ToolError, ToolSetupError, from_function


def test_schema_from_the_signature() -> None:
    """The model is told the name, docstring, types, defaults and descriptions."""
    offer = from_function("add", tool_examples.add).offer()
    assert offer["type"] == "function"
    told = offer["function"]
    assert (told["name"], told["description"]) == ("add", "Add two numbers.")
    parameters = told["parameters"]
    assert parameters["required"] == ["x"]
    assert parameters["properties"]["x"]["type"] == "integer"
    assert parameters["properties"]["y"]["description"] == "the second one"
    assert parameters["additionalProperties"] is False


async def test_async_and_sync() -> None:
    """An async function is awaited. A sync one is called in a thread."""
    assert await from_function("add", tool_examples.add).call({"x": "2", "y": 3}) == "5"
    assert await from_function("slow_add", tool_examples.slow_add).call({"x": 2, "y": 3}) == "2 + 3 = 5"


async def test_models_in_and_out() -> None:
    """Arguments become the annotated types. A result that is not a text is given as JSON."""
    text = await from_function("place", tool_examples.place).call({"where": {"name": "Ulm", "lat": 48.4}})
    assert text == '{"place":{"name":"Ulm","lat":48.4},"tags":[]}'


@pytest.mark.parametrize("arguments", [{}, {"x": "many"}, {"x": 1, "z": 2}])
async def test_arguments_that_do_not_fit(arguments: dict[str, object]) -> None:
    """A missing, a wrong or an unknown argument is an error that names it. The function is not called."""
    with pytest.raises(ToolError, match=r"do not fit: [xz]: "):
        await from_function("add", tool_examples.add).call(arguments)


@pytest.mark.parametrize("name", ["by_position", "NOT_A_FUNCTION"])
def test_what_cannot_be_a_tool(name: str) -> None:
    """A function that a model could not call is refused at the start, in one sentence."""
    with pytest.raises(ToolSetupError, match=name) as caught:
        from_function(name, getattr(tool_examples, name))
    assert "\n" not in str(caught.value)


def test_untyped_annotations() -> None:
    """A type without a JSON schema is refused in one sentence."""

    def takes(x: Unknown) -> None:
        """Take something odd."""

    with pytest.raises(ToolSetupError, match="takes") as caught:
        from_function("takes", takes)
    assert "\n" not in str(caught.value)


class Unknown:
    pass


async def test_examples() -> None:
    """The examples of the gateway work, and refuse what they do not understand."""
    assert "T" in await from_function("now", examples.now).call({"zone": "Europe/Berlin"})
    calculate = from_function("calculate", examples.calculate)
    assert await calculate.call({"expression": "2 * (3 + 4) - -1"}) == "15"
    for bad in ("2 ** 99", "__import__('os')", "1 +", "True + 1 if 1 else 2"):
        with pytest.raises((ValueError, SyntaxError)):
            await calculate.call({"expression": bad})
    with pytest.raises(ValueError, match="no time zone"):
        await from_function("now", examples.now).call({"zone": "Mars/Base"})
    assert await from_function("wait", examples.wait).call({"seconds": 0}) == "Waited 0 seconds."
