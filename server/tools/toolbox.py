"""All tools of the gateway: `[tools.functions]`, plug-ins (entry points `sluiceway.tools`), MCP servers."""

import asyncio
from collections.abc import Iterable
from importlib.metadata import EntryPoint

from server.config.plugins import LoadError, load_object
from server.config.settings import Settings
from server.tools.bounded import Bounds
from server.tools.mcp import McpServer
from server.tools.tool import Tool, ToolSetupError, from_function


class Toolbox:
    """The tools that are offered to models on `/api/stream`. `plugins` are the installed entry points.

    Of tools with the same name a configured function wins over a plug-in, and both win over the tool of an MCP server.
    """

    def __init__(self, settings: Settings, plugins: Iterable[EntryPoint] = ()) -> None:
        self.bounds = Bounds(settings.tools)
        self.max_rounds = settings.tools.max_rounds
        self._plugins = tuple(plugins)
        self._functions = settings.tools.functions
        self._own: dict[str, Tool] = {}
        self._servers = [McpServer(one) for one in settings.mcp]

    async def open(self) -> None:
        """Load the functions, and connect to the MCP servers. Raises ToolSetupError."""
        for point in self._plugins:
            self._own[point.name] = from_function(point.name, _loaded(point.name, point, point.value))
        for name, place in self._functions.items():
            self._own[name] = configured(name, place)
        await asyncio.gather(*(server.open() for server in self._servers))

    async def close(self) -> None:
        """Disconnect from the MCP servers."""
        await asyncio.gather(*(server.close() for server in self._servers))

    def tools(self) -> dict[str, Tool]:
        """Return the tools that can be offered now, by name."""
        tools = dict(self._own)
        for server in self._servers:
            for tool in server.tools:
                tools.setdefault(tool.name, tool)
        return tools


def configured(name: str, place: str) -> Tool:
    """Return the tool of a function, `"module:function"`. Raises ToolSetupError."""
    return from_function(name, _loaded(name, place, place))


def _loaded(name: str, place: str | EntryPoint, shown: str) -> object:
    try:
        return load_object(place)
    except LoadError as error:
        raise ToolSetupError(f"The tool {name!r} ({shown}) cannot be loaded: {error}") from error
