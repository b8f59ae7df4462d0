"""An agent of the official SDK of A2A 0.3: it greets whoever it is told, in pieces, and asks for a name where there is none."""

import asyncio

from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler, JSONRPCHandler
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    CancelTaskRequest,
    GetTaskRequest,
    Part,
    SendMessageRequest,
    SendStreamingMessageRequest,
    TaskResubscriptionRequest,
    TextPart,
)
from a2a.utils import new_agent_text_message, new_task

from serving import serve


class Greeter(AgentExecutor):
    async def execute(self, context, queue):
        name = context.get_user_input()
        if not context.current_task:
            await queue.enqueue_event(new_task(context.message))
        task = TaskUpdater(queue, context.task_id, context.context_id)
        await task.start_work()
        if name == "ask":
            return await task.requires_input(new_agent_text_message("Who are you?"), final=True)
        for n, text in enumerate(["Hello, ", name, "!"]):
            part = Part(root=TextPart(text=text))
            await task.add_artifact([part], artifact_id="greeting", append=n > 0, last_chunk=n == 2)
            await asyncio.sleep(0.1)
        await task.complete()

    async def cancel(self, context, queue):
        await TaskUpdater(queue, context.task_id, context.context_id).cancel()


def card(url):
    return AgentCard(
        name="greeter",
        description="Greets.",
        version="1",
        url=url,
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[],
    )


def main():
    shown = card("http://localhost")
    handler = JSONRPCHandler(shown, DefaultRequestHandler(Greeter(), InMemoryTaskStore()))
    methods = {
        "message/send": (SendMessageRequest, handler.on_message_send),
        "message/stream": (SendStreamingMessageRequest, handler.on_message_send_stream),
        "tasks/get": (GetTaskRequest, handler.on_get_task),
        "tasks/cancel": (CancelTaskRequest, handler.on_cancel_task),
        "tasks/resubscribe": (TaskResubscriptionRequest, handler.on_resubscribe_to_task),
    }

    def shape(value):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def answer(call):
        kind, method = methods[call["method"]]
        request = kind.model_validate(call)
        if "subscribe" in call["method"] or "stream" in call["method"]:
            async for event in method(request):
                yield shape(event)
        else:
            yield shape(await method(request))

    asyncio.run(serve(lambda url: shape(card(url)), answer))


main()
