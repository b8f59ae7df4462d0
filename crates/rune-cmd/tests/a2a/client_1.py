"""Drives a gateway with the official SDK of A2A 1.0: python client_1.py GATEWAY BINDING STEP…"""

import asyncio
import sys
from contextlib import aclosing
from uuid import uuid4

import httpx
import jwt
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import get_artifact_text, get_data_parts, get_message_text, new_text_message
from a2a.types import (
    AuthenticationInfo,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from google.protobuf.json_format import MessageToDict, ParseDict
from webhook import Webhook

GATEWAY, BINDING, *STEPS = sys.argv[1:]
# What the agent `teller` says.
WHOLE = "".join(f"{n} " for n in range(100))
step = None


def check(holds, *seen):
    if not holds:
        raise SystemExit(f"{BINDING} {step}: {seen!r}")


async def refused(kind, call):
    try:
        await call
    except kind as error:
        return error
    raise SystemExit(f"{BINDING} {step}: nothing was refused")


def said(text, **more):
    return new_text_message(text, role=Role.ROLE_USER, **more)


class Agent:
    """The client of an agent, made from its card."""

    def __init__(self, name, streaming=False, **config):
        self.url = f"{GATEWAY}/a2a/{name}"
        self.config = ClientConfig(
            streaming=streaming, supported_protocol_bindings=[BINDING], **config
        )

    async def __aenter__(self):
        self.http = self.config.httpx_client = httpx.AsyncClient(timeout=60)
        self.client = await ClientFactory(self.config).create_from_url(self.url)
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()

    def stream(self, message, **configuration):
        request = SendMessageRequest(
            message=message, configuration=SendMessageConfiguration(**configuration)
        )
        return self.client.send_message(request)

    async def send(self, message, **configuration):
        """The task that a message begins or goes on with."""
        answers = [answer async for answer in self.stream(message, **configuration)]
        check(len(answers) == 1 and answers[0].HasField("task"), answers)
        return answers[0].task

    async def get(self, task):
        return await self.client.get_task(GetTaskRequest(id=task))


def is_state(task, state):
    check(task.status.state == TaskState.Value(f"TASK_STATE_{state}"), task)


def kind(event):
    return event.WhichOneof("payload")


def assembled(events, text=""):
    """The text of the answer as a client of a stream puts it together."""
    for event in events:
        if kind(event) == "task":
            text = "".join(get_artifact_text(artifact) for artifact in event.task.artifacts)
        if kind(event) == "artifact_update":
            update = event.artifact_update
            piece = get_artifact_text(update.artifact)
            text = text + piece if update.append else piece
    return text


async def card():
    async with httpx.AsyncClient() as http:
        found = await A2ACardResolver(http, f"{GATEWAY}/a2a/plain").get_agent_card()
    check((found.name, found.version) == ("plain", "1.2.3"), found)
    check(found.capabilities.streaming and found.capabilities.push_notifications, found)
    interfaces = {(it.protocol_binding, it.protocol_version) for it in found.supported_interfaces}
    check({("JSONRPC", "1.0"), ("HTTP+JSON", "1.0")} <= interfaces, interfaces)


async def blocking():
    async with Agent("plain") as agent:
        task = await agent.send(said("hi"))
        is_state(task, "COMPLETED")
        check([get_artifact_text(artifact) for artifact in task.artifacts] == ["Echo: hi"], task)
        check(get_message_text(task.history[0]) == "hi", task)
        again = await agent.get(task.id)
        check((again.artifacts, again.history) == (task.artifacts, task.history), again, task)
        is_state(again, "COMPLETED")
        more = await agent.send(said("more", context_id=task.context_id))
        check((more.context_id, more.id != task.id) == (task.context_id, True), more)
        await refused(TaskNotFoundError, agent.get("nobody"))
        await refused(
            TaskNotCancelableError, agent.client.cancel_task(CancelTaskRequest(id=task.id))
        )


async def streaming():
    async with Agent("teller", streaming=True) as agent:
        events = [event async for event in agent.stream(said("go"))]
        check(kind(events[0]) == "task", events[0])
        check(kind(events[-1]) == "status_update", events[-1])
        is_state(events[-1].status_update, "COMPLETED")
        pieces = [event for event in events if kind(event) == "artifact_update"]
        check(len(pieces) > 1 and pieces[-1].artifact_update.last_chunk, pieces)
        check(assembled(events) == WHOLE, assembled(events))
        task = await agent.get(events[0].task.id)
        check(get_artifact_text(task.artifacts[0]) == WHOLE, task)


async def resubscribe():
    async with Agent("teller", streaming=True) as agent:
        async with aclosing(agent.stream(said("slowly"))) as stream:
            task = (await anext(stream)).task
            async for event in stream:
                if kind(event) == "artifact_update":
                    break
        follow = SubscribeToTaskRequest(id=task.id)
        events = [event async for event in agent.client.subscribe(follow)]
        check(kind(events[0]) == "task" and events[0].task.id == task.id, events[0])
        is_state(events[-1].status_update, "COMPLETED")
        check(assembled(events) == WHOLE, assembled(events))
        await refused(UnsupportedOperationError, anext(agent.client.subscribe(follow)))


async def cancel():
    async with Agent("stuck", streaming=True) as agent:
        async with aclosing(agent.stream(said("slow"))) as stream:
            task = (await anext(stream)).task
            canceled = await agent.client.cancel_task(CancelTaskRequest(id=task.id))
            is_state(canceled, "CANCELED")
            rest = [event async for event in stream]
        is_state(rest[-1].status_update, "CANCELED")
    async with Agent("stuck") as agent:
        begun = await agent.send(said("slow"), return_immediately=True)
        check(begun.status.state in (TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING), begun)
        await agent.client.cancel_task(CancelTaskRequest(id=begun.id))
        is_state(await agent.get(begun.id), "CANCELED")


async def lists():
    async with Agent("plain") as agent:
        context = uuid4().hex
        made = [(await agent.send(said(f"{n}", context_id=context))).id for n in range(3)]
        seen, token = [], ""
        while True:
            request = ListTasksRequest(
                context_id=context,
                page_size=2,
                page_token=token,
                status=TaskState.TASK_STATE_COMPLETED,
                include_artifacts=True,
            )
            page = await agent.client.list_tasks(request)
            check(page.total_size == 3 and len(page.tasks) <= 2, page)
            seen += page.tasks
            token = page.next_page_token
            if not token:
                break
        check([task.id for task in seen] == made[::-1], seen, made)
        texts = [get_artifact_text(task.artifacts[0]) for task in seen]
        check(texts == ["Echo: 2", "Echo: 1", "Echo: 0"], texts)
        none = ListTasksRequest(context_id=context, status=TaskState.TASK_STATE_FAILED)
        check(not (await agent.client.list_tasks(none)).tasks)


async def webhooks():
    hook = Webhook()
    config = TaskPushNotificationConfig(
        url=hook.url,
        token="tok",
        authentication=AuthenticationInfo(scheme="Bearer", credentials="credentials-1"),
    )
    async with Agent("plain", push_notification_config=config) as agent:
        task = await agent.send(said("hi"))
        sent = [await asyncio.to_thread(hook.next) for _ in range(3)]
        told = [ParseDict(body, StreamResponse()) for _, body in sent]
        is_state(told[0].status_update, "WORKING")
        check([told[1].artifact_update.artifact] == task.artifacts, told, task)
        done = told[2].status_update
        check((done.task_id, done.status) == (task.id, task.status), told, task)
        headers = sent[2][0]
        check(headers["authorization"] == "Bearer credentials-1", headers)
        check(headers["x-a2a-notification-token"] == "tok", headers)
    async with Agent("stuck") as agent:
        client = agent.client
        task = (await agent.send(said("slow"), return_immediately=True)).id
        make = lambda: client.create_task_push_notification_config(
            TaskPushNotificationConfig(task_id=task, url=hook.url)
        )
        first, second = await make(), await make()
        check(first.id and first.id != second.id and first.url == hook.url, first, second)
        one = GetTaskPushNotificationConfigRequest(task_id=task, id=first.id)
        check(await client.get_task_push_notification_config(one) == first)
        every = ListTaskPushNotificationConfigsRequest(task_id=task)
        listed = await client.list_task_push_notification_configs(every)
        check({it.id for it in listed.configs} == {first.id, second.id}, listed)
        await client.delete_task_push_notification_config(
            DeleteTaskPushNotificationConfigRequest(task_id=task, id=second.id)
        )
        listed = await client.list_task_push_notification_configs(every)
        check([it.id for it in listed.configs] == [first.id], listed)
        await client.cancel_task(CancelTaskRequest(id=task))
        # The one that was removed may have been told before.
        ended = False
        while not ended:
            told = ParseDict((await asyncio.to_thread(hook.next))[1], StreamResponse()).status_update
            check(told.task_id == task, told)
            ended = told.status.state != TaskState.TASK_STATE_WORKING
        is_state(told, "CANCELED")


async def files():
    parts = [
        Part(text="Look."),
        Part(raw=b"\x89PNG\r\n\x1a\nnot much of one", media_type="image/png", filename="a.png"),
        Part(raw=b"a,b\n1,2", media_type="text/csv", filename="t.csv"),
    ]
    message = Message(message_id="files", role=Role.ROLE_USER, parts=parts)
    async with Agent("eye") as agent:
        task = await agent.send(message)
        is_state(task, "COMPLETED")
        check(list(task.history[0].parts) == parts, task)
    async with Agent("maker") as agent:
        task = await agent.send(said("make"))
        text, made, linked = task.artifacts[0].parts
        check(text.text == "See:", task)
        check((made.raw, made.filename, made.media_type) == (b"\1\2\3", "a.pdf", "application/pdf"), made)
        check(linked.url == "https://example.org/b.txt", linked)


async def approvals():
    async with Agent("ask", streaming=True) as agent:
        events = [event async for event in agent.stream(said("go"))]
        task = events[0].task
        asked = events[-1].status_update
        is_state(asked, "INPUT_REQUIRED")
        check("`touch`" in get_message_text(asked.status.message), asked)
        (data,) = get_data_parts(asked.status.message.parts)
        check(data["approvals"][0]["tool"] == "touch", data)
        follow = said("yes", task_id=task.id, context_id=task.context_id)
        events = [event async for event in agent.stream(follow)]
        check(events[0].task.id == task.id, events[0])
        is_state(events[-1].status_update, "COMPLETED")
    async with Agent("ask") as agent:
        task = await agent.send(said("go"))
        is_state(task, "INPUT_REQUIRED")
        done = await agent.send(said("Not today.", task_id=task.id))
        is_state(done, "COMPLETED")
        (data,) = get_data_parts(done.history[-1].parts)
        check(data["decision"] == "deny", done)


async def signature():
    """The gateway has the credentials `key` and signs its cards."""

    def key(kid, jku):
        keys = jwt.PyJWKSet.from_dict(httpx.get(jku).json()).keys
        return next(key for key in keys if key.key_id == kid)

    verify = create_signature_verifier(key, ["ES256"])
    async with httpx.AsyncClient(headers={"authorization": "Bearer key"}) as http:
        resolver = A2ACardResolver(http, f"{GATEWAY}/a2a/hello")
        card = await resolver.get_agent_card(signature_verifier=verify)
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[BINDING])
        client = ClientFactory(config).create(card)
        extended = await client.get_extended_agent_card(
            GetExtendedAgentCardRequest(), signature_verifier=verify
        )
    check(len(extended.skills) > len(card.skills), extended)
    for changed in (card, extended):
        changed.description = "Another one."
        try:
            verify(changed)
        except InvalidSignaturesError:
            continue
        check(False, MessageToDict(changed))


async def main():
    global step
    for step in STEPS:
        await globals()[step]()


asyncio.run(main())
