"""A real MCP server for tests: `mcp_server.py` over stdio, `mcp_server.py --http` on a port that it prints."""

import asyncio
import os
import socket
import sys

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("weir")


@server.tool()
def level(gate: str, metres: float = 0.0) -> str:
    """Tell the water level at a gate."""
    return f"{gate}: {metres + 1.5} m"


@server.tool(name="gate.count")
def gate_count() -> dict[str, int]:
    """Count the gates."""
    return {"gates": 3}


@server.tool()
def flood() -> str:
    """Fail."""
    raise ToolError("the gates are closed")


@server.tool()
async def stall() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return ""


@server.tool()
def huge() -> str:
    """Answer with a megabyte."""
    return "ü" * 500_000


@server.tool()
def die() -> str:
    """End the server in the middle of a call."""
    os._exit(1)


@server.tool()
def secret() -> str:
    """Tell what the server was given of its environment."""
    return os.environ.get("LOCAL_API_KEY", "nothing")


if __name__ == "__main__":
    if "--http" in sys.argv:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()  # whoever connects from now on is kept waiting, not refused
        print(sock.getsockname()[1], flush=True)  # noqa: T201
        config = uvicorn.Config(server.streamable_http_app(), log_level="error")
        uvicorn.Server(config).run(sockets=[sock])
    else:
        server.run()
