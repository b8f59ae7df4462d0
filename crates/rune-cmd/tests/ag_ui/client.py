"""Runs agents over AG-UI and reads the events with the official types: python client.py GATEWAY."""

import json
import sys
import urllib.request

from ag_ui.core import EventType, Event, ResumeEntry, RunAgentInput, UserMessage
from pydantic import TypeAdapter

events_of = TypeAdapter(Event)


def check(holds, *seen):
    if not holds:
        raise SystemExit(f"{seen!r}")


def run(agent, text, run_id, resume=None):
    body = RunAgentInput(
        thread_id=f"thread-{agent}",
        run_id=run_id,
        state={},
        messages=[UserMessage(id="1", content=text)],
        tools=[],
        context=[],
        forwarded_props={},
        resume=resume,
    )
    request = urllib.request.Request(
        f"{sys.argv[1]}/v1/agents/{agent}/ag-ui",
        data=body.model_dump_json(by_alias=True).encode(),
        headers={"content-type": "application/json", "accept": "text/event-stream"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        blocks = answer.read().decode().split("\n\n")
    events = []
    for block in filter(None, blocks):
        event = events_of.validate_json(block.removeprefix("data: "))
        # Nothing in it that the protocol does not know.
        check(not (event.model_extra or {}), event)
        events.append(event)
    check(events[0].type == EventType.RUN_STARTED, events)
    check(events[-1].type == EventType.RUN_FINISHED, events)
    return events


def balanced(events):
    """Every message and call begins once, and ends before the run does."""
    opened, ended = [], []
    for event in events:
        if event.type == EventType.TEXT_MESSAGE_START:
            opened.append(event.message_id)
        if event.type == EventType.TOOL_CALL_START:
            opened.append(event.tool_call_id)
        if event.type == EventType.TEXT_MESSAGE_END:
            ended.append(event.message_id)
        if event.type == EventType.TOOL_CALL_END:
            ended.append(event.tool_call_id)
    check(sorted(opened) == sorted(ended) and len(set(opened)) == len(opened), opened, ended)


balanced(run("plain", "hi", "r-1"))
called = run("plain", '/tool rune__system-time {"timezone": "UTC"}', "r-2")
balanced(called)
arguments = next(event for event in called if event.type == EventType.TOOL_CALL_ARGS)
check(json.loads(arguments.delta) == {"timezone": "UTC"}, arguments)
check(called[-1].usage[0].total_tokens > 0, called[-1])
asked = run("ask", "go", "r-3")
outcome = asked[-1].outcome
check(outcome.type == "interrupt", outcome)
answer = ResumeEntry(
    interrupt_id=outcome.interrupts[0].id, status="resolved", payload={"approved": True}
)
done = run("ask", "go", "r-4", [answer])
balanced(done)
check(done[-1].outcome.type == "success" and done[-1].result == "done", done[-1])
