"""Tools that the server itself runs for a model: functions, plug-ins and MCP servers, bounded in every direction."""
