"""Just enough of an HTTP server for an agent of the official SDKs, whose own wants an ASGI server."""

import asyncio
import json


async def serve(card, answer):
    """Answers GET with the card, which is made for the URL, and JSON-RPC with what `answer(call)` yields; says where."""

    async def client(reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if head.startswith("get"):
                send(writer, "application/json", json.dumps(card(url)))
            else:
                length = next(line for line in head.splitlines() if line.startswith("content-length:"))
                call = json.loads(await reader.readexactly(int(length.split(":")[1])))
                if "stream" in call["method"].lower() or "subscribe" in call["method"].lower():
                    send(writer, "text/event-stream", None)
                    async for one in answer(call):
                        writer.write(f"data: {json.dumps(one)}\n\n".encode())
                        await writer.drain()
                else:
                    async for one in answer(call):
                        send(writer, "application/json", json.dumps(one))
            await writer.drain()
        finally:
            writer.close()

    def send(writer, kind, body):
        size = "" if body is None else f"content-length: {len(body.encode())}\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{size}connection: close\r\n\r\n{body or ''}".encode())

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(url, flush=True)
    await server.serve_forever()
