"""An MCP client for the tests, with the official SDK: `client.py MODE URL [TOKEN]` or `client.py MODE stdio COMMAND…`.

MODE is `legacy`, `auto` or a version. Prints what it saw as JSON. The server has the agents `steps` and `ask`.
"""

import asyncio
import json
import os
import sys

import httpx2
import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

ENV = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR", "RUNE_API_KEY") if name in os.environ}
seen = {}


async def elicited(context, params):
    seen["asked"] = params.message
    return types.ElicitResult(action="accept", content={"decision": "approve", "note": "fine"})


async def main() -> None:
    mode, where, *rest = sys.argv[1:]
    if where == "stdio":
        server = StdioServerParameters(command=rest[0], args=rest[1:], env=ENV)
    else:
        headers = {"Authorization": f"Bearer {rest[0]}"} if rest else {}
        server = streamable_http_client(where, http_client=httpx2.AsyncClient(headers=headers, timeout=60))
    progress = []

    async def reported(done, total, message):
        progress.append([done, message])

    async with Client(server, mode=mode, elicitation_callback=elicited) as client:
        seen["version"] = client.protocol_version
        seen["server"] = client.server_info.name if client.server_info else None
        listed = await client.list_tools()
        seen["tools"] = {tool.name: tool.input_schema for tool in listed.tools}
        called = await client.call_tool("steps", {"input": "go", "session_id": "sdk"}, progress_callback=reported)
        seen["steps"] = [called.is_error, called.content[0].text, called.meta]
        seen["progress"] = progress
        called = await client.call_tool("ask", {"input": "go"})
        seen["ask"] = [called.is_error, called.content[0].text]
        called = await client.call_tool("steps", {"wrong": 1})
        seen["wrong"] = [called.is_error, called.content[0].text]
        try:
            await client.call_tool("nobody", {"input": "go"})
        except MCPError as error:
            seen["unknown"] = error.error.code
    print(json.dumps(seen))


asyncio.run(main())
