#!/usr/bin/env python3
"""A small MCP server on standard input and output, with nothing but Python: a list of things to buy.

Real servers are written with an SDK. This one shows what is said: one JSON object on each line.
"""

import json
import sys

TOOLS = [
    {
        "name": "add",
        "description": "Puts things on the shopping list.",
        "inputSchema": {
            "type": "object",
            "properties": {"items": {"type": "array", "items": {"type": "string"}}},
            "required": ["items"],
        },
    },
    {
        "name": "show",
        "description": "Says what is on the shopping list.",
        "inputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": True},
    },
]
bought = []


def call(name, arguments, token):
    if name == "add":
        for number, item in enumerate(arguments["items"], start=1):
            bought.append(item)
            if token is not None:
                params = {"progressToken": token, "progress": number, "total": len(arguments["items"]), "message": item}
                send({"method": "notifications/progress", "params": params})
    return {"content": [{"type": "text", "text": ", ".join(bought) or "nothing"}]}


def answer(method, params):
    if method == "initialize":
        info = {"name": "shopping", "version": "1.0.0"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        token = params.get("_meta", {}).get("progressToken")
        return call(params["name"], params.get("arguments", {}), token)
    if method == "ping":
        return {}
    return None


def send(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    result = answer(message["method"], message.get("params", {}))
    if result is None:
        error = {"code": -32601, "message": f"there is no method {message['method']}"}
        send({"id": message["id"], "error": error})
    else:
        send({"id": message["id"], "result": result})
