"""An agent of the official SDK of A2A 1.0: it greets whoever it is told, in pieces, and asks for a name where there is none."""

import asyncio

from a2a.helpers import new_task_from_user_message, new_text_message
from a2a.server.agent_execution import AgentExecutor
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.response_helpers import build_error_response
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    Part,
    SendMessageRequest,
    SendMessageResponse,
    SubscribeToTaskRequest,
    Task,
)
from a2a.utils.errors import A2AError
from a2a.utils.proto_utils import to_stream_response
from google.protobuf.json_format import MessageToDict, ParseDict

from serving import serve


class Greeter(AgentExecutor):
    async def execute(self, context, queue):
        name = context.get_user_input()
        if not context.current_task:
            await queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(queue, context.task_id, context.context_id)
        await task.start_work()
        if name == "ask":
            return await task.requires_input(new_text_message("Who are you?"))
        for n, text in enumerate(["Hello, ", name, "!"]):
            await task.add_artifact([Part(text=text)], artifact_id="greeting", append=n > 0, last_chunk=n == 2)
            await asyncio.sleep(0.1)
        await task.complete()

    async def cancel(self, context, queue):
        await TaskUpdater(queue, context.task_id, context.context_id).cancel()


def card(url):
    return AgentCard(
        name="greeter",
        description="Greets.",
        version="1",
        capabilities=AgentCapabilities(streaming=True),
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
    )


def main():
    handler = DefaultRequestHandler(Greeter(), InMemoryTaskStore(), card("http://localhost"))
    methods = {
        "SendMessage": (SendMessageRequest, handler.on_message_send),
        "SendStreamingMessage": (SendMessageRequest, handler.on_message_send_stream),
        "GetTask": (GetTaskRequest, handler.on_get_task),
        "CancelTask": (CancelTaskRequest, handler.on_cancel_task),
        "SubscribeToTask": (SubscribeToTaskRequest, handler.on_subscribe_to_task),
    }

    async def answer(call):
        def result(value):
            return {"jsonrpc": "2.0", "id": call["id"], "result": MessageToDict(value)}

        kind, method = methods[call["method"]]
        request, context = ParseDict(call["params"], kind()), ServerCallContext()
        try:
            if "Stream" in call["method"] or "Subscribe" in call["method"]:
                async for event in method(request, context):
                    yield result(to_stream_response(event))
                return
            value = await method(request, context)
            if call["method"] == "SendMessage":
                member = "task" if isinstance(value, Task) else "message"
                value = SendMessageResponse(**{member: value})
            yield result(value)
        except A2AError as error:
            yield build_error_response(call["id"], error)

    asyncio.run(serve(lambda url: MessageToDict(card(url)), answer))


main()
