"""Makes one of everything, and writes the ids of it where schemathesis.toml looks for them: what is asked about things that
are not there says little of an API.

Usage: seed.py GATEWAY CONTROL_PLANE KEY DIRECTORY. Only the standard library."""

import json
import pathlib
import re
import sys
import urllib.request

gateway, control_plane, key, directory = sys.argv[1:]
directory = pathlib.Path(directory)


def ask(base, method, path, body=None):
    request = urllib.request.Request(base + path, method=method, headers={"x-api-key": key})
    if body is not None:
        request.add_header("content-type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read()
    return json.loads(text) if text else None


def invoke(text, **more):
    return ask(gateway, "POST", "/v1/agents/hello/invoke", {"input": text, **more})


def tool(name, arguments, **more):
    return invoke(f"/tool rune@{name} {json.dumps(arguments)}", **more)


def ids(base, path, field="id"):
    return [item[field] for item in ask(base, "GET", path)["items"]]


def write(name, values):
    assert values, f"nothing for {name}"
    lines = [json.dumps(value) + "\n" for value in values]
    (directory / f"{name}.dict").write_text("".join(lines))


ended = [invoke("Hello", session_id="talk"), invoke("And again", session_id="talk")]
ended.append(tool("task-post", {"title": "sweep"}))
ended.append(tool("event-publish", {"topic": "swept"}))
ended.append(tool("channel-send", {"channel": "irc", "to": "#team", "text": "swept"}))
canvas = [
    tool("canvas-present", {"title": "A", "format": format, "content": content})
    for format, content in [("html", "<p>a</p>"), ("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>"), ("markdown", "a")]
]
for n in range(8):
    tool("task-post", {"title": f"large {n}", "payload": "all work and no play " * 1000})
large = tool("task-list", {}, session_id="large")
questions = [f'/tool rune@memory-store {{"key": "{n}", "value": "a"}}' for n in range(30)]
waiting = invoke("\n".join(questions))
response = ask(gateway, "POST", "/v1/responses", {"model": "hello", "input": "Hello"})
for n in range(3):
    schedule = {"name": f"nightly-{n}", "agent": "hello", "input": "Hello", "cron": "0 3 * * *"}
    ask(control_plane, "POST", "/v1/schedules", schedule)
    ask(control_plane, "PUT", f"/v1/secrets/TOKEN_{n}", {"value": "a secret value"})

detail = ask(gateway, "GET", f"/v1/requests/{large['request_id']}/context")
write("agents", ["hello"])
write("requests", [request["request_id"] for request in ended])
write("waiting", [waiting["request_id"]])
write("approvals", ids(gateway, "/v1/approvals", "approval_id"))
write("sessions", ["talk", "large"])
write("outputs", [output["handle"] for output in detail["spilled"]])
write("canvases", [re.search(r"/canvas/(\w+)", one["output"]).group(1) for one in canvas])
write("responses", [response["id"]])
write("tasks", ids(gateway, "/v1/tasks"))
write("replicas", ids(control_plane, "/v1/replicas"))
write("versions", ids(control_plane, "/v1/agent-versions"))
write("deployments", ids(control_plane, "/v1/deployments"))
write("schedules", ids(control_plane, "/v1/schedules"))
write("secrets", ids(control_plane, "/v1/secrets", "name"))
