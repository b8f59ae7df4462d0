"""An MCP server for the tests, with the official SDK: `server.py stdio`, `server.py http PORT [legacy]`.

With `legacy` it knows no `server/discover`, as servers of the older protocol do not.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("tests", version="1.2.3")
# Where what happened is written down.
NOTES = Path(os.environ.get("NOTES", "notes.txt"))


def note(text: str) -> None:
    with NOTES.open("a") as notes:
        notes.write(text + "\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> dict[str, int]:
    """Adds two numbers."""
    return {"sum": a + b}


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ToolError(f"it failed: {why}")


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Counts, and says how far it is."""
    for n in range(1, to + 1):
        await ctx.report_progress(n, to, f"at {n}")
        await asyncio.sleep(0.15)
    return f"counted to {to}"


@server.tool()
async def wait(ctx: Context) -> str:
    """Waits until it is told not to."""
    note("waiting")
    try:
        await asyncio.sleep(600)
    except BaseException:
        note("cancelled")
        raise
    return "waited"


@server.tool()
def who(ctx: Context) -> dict[str, str]:
    """Says what it was sent and what it has."""
    headers = {name.lower(): value for name, value in (ctx.headers or {}).items()}
    return {
        "authorization": headers.get("authorization", ""),
        "variables": " ".join(sorted(os.environ)),
        "token": os.environ.get("TOKEN", ""),
        "home": os.environ.get("HOME", ""),
    }


@server.tool()
async def learn(ctx: Context) -> str:
    """Learns to multiply."""

    def multiply(a: int, b: int) -> dict[str, int]:
        """Multiplies two numbers."""
        return {"product": a * b}

    server.add_tool(multiply)
    await ctx.notify_tools_changed()
    return "learned"


@server.tool()
def die() -> str:
    """Ends the whole server at once."""
    print("the last words of the server", os.environ.get("TOKEN", ""), file=sys.stderr, flush=True)
    os._exit(3)


def old(app):
    """The app without what only the newer protocol has."""

    async def wrapped(scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            return await app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if json.loads(body or b"{}").get("method") == "server/discover":
            head = {"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"text/plain")]}
            await send(head)
            return await send({"type": "http.response.body", "body": b"Bad Request: no session"})
        sent = False

        async def again():
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await app(scope, again, send)

    return wrapped


if __name__ == "__main__":
    note("started")
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        import uvicorn

        app = server.streamable_http_app()
        port = int(sys.argv[2])
        uvicorn.run(old(app) if "legacy" in sys.argv else app, host="127.0.0.1", port=port, log_level="warning")
