"""Drives a gateway with the official SDK of A2A 0.3: python client_0_3.py GATEWAY STEP…"""

import asyncio
import base64
import sys
from contextlib import aclosing
from uuid import uuid4

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientJSONRPCError
from a2a.types import (
    FilePart,
    FileWithBytes,
    FileWithUri,
    GetTaskPushNotificationConfigParams,
    Message,
    MessageSendConfiguration,
    Part,
    PushNotificationAuthenticationInfo,
    PushNotificationConfig,
    Role,
    Task,
    TaskArtifactUpdateEvent,
    TaskIdParams,
    TaskPushNotificationConfig,
    TaskQueryParams,
    TaskState,
    TaskStatusUpdateEvent,
    TextPart,
)
from a2a.utils import get_data_parts, get_message_text
from webhook import Webhook

GATEWAY, *STEPS = sys.argv[1:]
# What the agent `teller` says.
WHOLE = "".join(f"{n} " for n in range(100))
step = None


def check(holds, *seen):
    if not holds:
        raise SystemExit(f"{step}: {seen!r}")


async def refused(code, call):
    try:
        await call
    except A2AClientJSONRPCError as error:
        check(error.error.code == code, error)
        return
    raise SystemExit(f"{step}: nothing was refused")


def message(*parts, **more):
    parts = [Part(root=part) for part in parts]
    return Message(message_id=uuid4().hex, role=Role.user, parts=parts, **more)


def said(text, **more):
    return message(TextPart(text=text), **more)


class Agent:
    """The client of an agent, made from its card."""

    def __init__(self, name, streaming=False, **config):
        self.url = f"{GATEWAY}/a2a/{name}"
        self.config = ClientConfig(streaming=streaming, **config)

    async def __aenter__(self):
        self.http = self.config.httpx_client = httpx.AsyncClient(timeout=60)
        self.client = await ClientFactory.connect(self.url, self.config)
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()

    def stream(self, message, **configuration):
        return self.client.send_message(
            message, configuration=MessageSendConfiguration(**configuration)
        )

    async def send(self, message, **configuration):
        """The task that a message begins or goes on with."""
        answers = [answer async for answer in self.stream(message, **configuration)]
        check(len(answers) == 1 and isinstance(answers[0][0], Task), answers)
        return answers[0][0]

    async def get(self, task):
        return await self.client.get_task(TaskQueryParams(id=task))


def is_state(task, state):
    check(task.status.state == state, task)


def text_of(artifact):
    return "".join(part.root.text for part in artifact.parts)


async def card():
    async with httpx.AsyncClient() as http:
        found = await A2ACardResolver(http, f"{GATEWAY}/a2a/plain").get_agent_card()
    check((found.name, found.version) == ("plain", "1.2.3"), found)
    check((found.protocol_version, found.preferred_transport) == ("0.3", "JSONRPC"), found)
    check(found.capabilities.streaming and found.capabilities.push_notifications, found)


async def blocking():
    async with Agent("plain") as agent:
        task = await agent.send(said("hi"))
        is_state(task, TaskState.completed)
        check([text_of(artifact) for artifact in task.artifacts] == ["Echo: hi"], task)
        check(get_message_text(task.history[0]) == "hi", task)
        again = await agent.get(task.id)
        check((again.artifacts, again.history) == (task.artifacts, task.history), again, task)
        is_state(again, TaskState.completed)
        more = await agent.send(said("more", context_id=task.context_id))
        check((more.context_id, more.id != task.id) == (task.context_id, True), more)
        await refused(-32001, agent.get("nobody"))
        await refused(-32002, agent.client.cancel_task(TaskIdParams(id=task.id)))


async def streaming():
    async with Agent("teller", streaming=True) as agent:
        events = [event async for event in agent.stream(said("go"))]
        check(events[0][1] is None, events[0])
        task, last = events[-1]
        check(isinstance(last, TaskStatusUpdateEvent) and last.final, last)
        is_state(last, TaskState.completed)
        pieces = [update for _, update in events if isinstance(update, TaskArtifactUpdateEvent)]
        check(len(pieces) > 1 and pieces[-1].last_chunk, pieces)
        # The SDK has put the task together itself.
        check(text_of(task.artifacts[0]) == WHOLE, task)
        check(text_of((await agent.get(task.id)).artifacts[0]) == WHOLE, task)


async def resubscribe():
    async with Agent("teller", streaming=True) as agent:
        async with aclosing(agent.stream(said("slowly"))) as stream:
            async for task, update in stream:
                if isinstance(update, TaskArtifactUpdateEvent):
                    break
        follow = TaskIdParams(id=task.id)
        events = [event async for event in agent.client.resubscribe(follow)]
        check(events[0][0].id == task.id and events[0][1] is None, events[0])
        task, last = events[-1]
        is_state(last, TaskState.completed)
        check(text_of(task.artifacts[0]) == WHOLE, task)
        await refused(-32004, anext(agent.client.resubscribe(follow)))


async def cancel():
    async with Agent("stuck", streaming=True) as agent:
        async with aclosing(agent.stream(said("slow"))) as stream:
            task, _ = await anext(stream)
            canceled = await agent.client.cancel_task(TaskIdParams(id=task.id))
            is_state(canceled, TaskState.canceled)
            rest = [update async for _, update in stream]
        is_state(rest[-1], TaskState.canceled)
    async with Agent("stuck", polling=True) as agent:
        begun = await agent.send(said("slow"))
        check(begun.status.state in (TaskState.submitted, TaskState.working), begun)
        await agent.client.cancel_task(TaskIdParams(id=begun.id))
        is_state(await agent.get(begun.id), TaskState.canceled)


async def webhooks():
    hook = Webhook()
    config = PushNotificationConfig(
        url=hook.url,
        token="tok",
        authentication=PushNotificationAuthenticationInfo(
            schemes=["Bearer"], credentials="credentials-0.3"
        ),
    )
    async with Agent("plain", push_notification_configs=[config]) as agent:
        task = await agent.send(said("hi"))
        sent = [await asyncio.to_thread(hook.next) for _ in range(2)]
        working, told = [Task.model_validate(body) for _, body in sent]
        is_state(working, TaskState.working)
        headers = sent[1][0]
        check((told.id, told.artifacts) == (task.id, task.artifacts), told, task)
        is_state(told, TaskState.completed)
        check(headers["authorization"] == "Bearer credentials-0.3", headers)
        check(headers["x-a2a-notification-token"] == "tok", headers)
    async with Agent("stuck", polling=True) as agent:
        task = (await agent.send(said("slow"))).id
        made = await agent.client.set_task_callback(
            TaskPushNotificationConfig(
                task_id=task, push_notification_config=PushNotificationConfig(url=hook.url)
            )
        )
        one = GetTaskPushNotificationConfigParams(
            id=task, push_notification_config_id=made.push_notification_config.id
        )
        found = await agent.client.get_task_callback(one)
        check(found == made and made.push_notification_config.url == hook.url, found, made)
        await agent.client.cancel_task(TaskIdParams(id=task))
        told = working
        while told.status.state == TaskState.working:
            told = Task.model_validate((await asyncio.to_thread(hook.next))[1])
        check(told.id == task, told)
        is_state(told, TaskState.canceled)


async def files():
    def file(data, mime_type, name):
        encoded = base64.b64encode(data).decode()
        return FilePart(file=FileWithBytes(bytes=encoded, mime_type=mime_type, name=name))

    sent = message(
        TextPart(text="Look."),
        file(b"\x89PNG\r\n\x1a\nnot much of one", "image/png", "a.png"),
        file(b"a,b\n1,2", "text/csv", "t.csv"),
    )
    async with Agent("eye") as agent:
        task = await agent.send(sent)
        is_state(task, TaskState.completed)
        check(task.history[0].parts == sent.parts, task)
    async with Agent("maker") as agent:
        task = await agent.send(said("make"))
        text, made, linked = [part.root for part in task.artifacts[0].parts]
        check(text.text == "See:", task)
        expected = FileWithBytes(bytes="AQID", mime_type="application/pdf", name="a.pdf")
        check(made.file == expected, made)
        check(linked.file == FileWithUri(uri="https://example.org/b.txt"), linked)


async def approvals():
    async with Agent("ask", streaming=True) as agent:
        events = [event async for event in agent.stream(said("go"))]
        task, asked = events[-1]
        is_state(asked, TaskState.input_required)
        check("`touch`" in get_message_text(asked.status.message), asked)
        (data,) = get_data_parts(asked.status.message.parts)
        check(data["approvals"][0]["tool"] == "touch", data)
        follow = said("yes", task_id=task.id, context_id=task.context_id)
        events = [event async for event in agent.stream(follow)]
        check(events[0][0].id == task.id, events[0])
        is_state(events[-1][1], TaskState.completed)
    async with Agent("ask") as agent:
        task = await agent.send(said("go"))
        is_state(task, TaskState.input_required)
        done = await agent.send(said("Not today.", task_id=task.id))
        is_state(done, TaskState.completed)
        (data,) = get_data_parts(done.history[-1].parts)
        check(data["decision"] == "deny", done)


async def main():
    global step
    for step in STEPS:
        await globals()[step]()


asyncio.run(main())
