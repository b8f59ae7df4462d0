"""Drives a gateway with the official OpenAI SDK: python client.py BASE_URL STEP [ARGUMENT]."""

import sys
from concurrent.futures import ThreadPoolExecutor

import openai
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0, timeout=60)


def check(holds, *seen):
    if not holds:
        raise SystemExit(f"{sys.argv[2]}: {seen!r}")


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise SystemExit(f"{sys.argv[2]}: nothing was refused")


def models():
    found = [model.id for model in client.models.list()]
    check("plain" in found, found)
    check(client.models.retrieve("plain").id == "plain")
    check(client.models.retrieve("dev/plain:stable").id == "dev/plain:stable")
    error = refused(openai.NotFoundError, lambda: client.models.retrieve("nobody"))
    check((error.code, error.param) == ("model_not_found", "model"), error.body)


def completions():
    messages = [{"role": "user", "content": "hi"}]
    done = client.chat.completions.create(model="plain", messages=messages, temperature=0.5)
    choice = done.choices[0]
    check(choice.message.content == "Echo: hi", done)
    check((choice.finish_reason, choice.message.role) == ("stop", "assistant"), done)
    check(done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0, done)
    raw = client.chat.completions.with_raw_response.create(model="plain", messages=messages)
    check(raw.headers["x-rune-request-id"].startswith("req_"), raw.headers)
    check(raw.parse().id == "chatcmpl-" + raw.headers["x-rune-request-id"][4:])


def streams():
    messages = [{"role": "user", "content": "one two three"}]
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model="plain", messages=messages, stream=True, stream_options=options
    )
    chunks = list(stream)
    check(chunks[0].choices[0].delta.role == "assistant", chunks[0])
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    check("".join(texts) == "Echo: one two three", texts)
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    check(finishes[-1] == "stop" and not any(finishes[:-1]), finishes)
    check(chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0, chunks[-1])
    check(all(chunk.usage is None for chunk in chunks[:-1]))
    check(len({chunk.id for chunk in chunks}) == 1)
    with client.chat.completions.stream(model="plain", messages=messages) as stream:
        whole = stream.get_final_completion()
    check(whole.choices[0].message.content == "Echo: one two three", whole)


def responses():
    first = client.responses.create(model="plain", input="hi", metadata={"ticket": "7"})
    check((first.status, first.output_text) == ("completed", "Echo: hi"), first)
    check(first.metadata == {"ticket": "7"} and first.usage.total_tokens > 0, first)
    raw = client.responses.with_raw_response.create(
        model="plain", input=[{"role": "user", "content": "more"}], previous_response_id=first.id
    )
    second = raw.parse()
    check(second.output_text == "Echo: more", second)
    check(second.previous_response_id == first.id, second)
    session = raw.headers["x-rune-session-id"]
    again = client.responses.with_raw_response.retrieve(second.id)
    check(again.headers["x-rune-session-id"] == session)
    check(again.parse().to_dict() == second.to_dict(), again.parse(), second)
    error = refused(
        openai.BadRequestError,
        lambda: client.responses.create(model="plain", input="x", previous_response_id=first.id),
    )
    check(error.code == "previous_response_not_latest", error.body)
    hidden = client.responses.create(model="plain", input="hi", store=False)
    refused(openai.NotFoundError, lambda: client.responses.retrieve(hidden.id))
    started = client.responses.create(model="plain", input="hi", background=True)
    check(started.status in ("queued", "in_progress", "completed"), started)
    while started.status in ("queued", "in_progress"):
        started = client.responses.retrieve(started.id)
    check((started.status, started.output_text) == ("completed", "Echo: hi"), started)


def response_streams():
    with client.responses.stream(model="plain", input="one two") as stream:
        events = list(stream)
        final = stream.get_final_response()
    names = [event.type for event in events]
    expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    check(list(dict.fromkeys(names)) == expected, names)
    numbers = [event.sequence_number for event in events]
    check(numbers == list(range(len(numbers))), numbers)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    check("".join(deltas) == final.output_text == "Echo: one two", deltas, final)
    kept = client.responses.retrieve(final.id)
    check(kept.output_text == final.output_text and kept.usage == final.usage, kept, final)
    again = list(client.responses.retrieve(final.id, stream=True))
    check(again[-1].response.output_text == final.output_text, again)


def tools():
    shown = {"show_tools": "true"}
    call = '/tool rune__system-time {"timezone": "UTC"}'
    hidden = client.responses.create(model="plain", input=call)
    check([item.type for item in hidden.output] == ["message"], hidden)
    seen = client.responses.create(model="plain", input=call, metadata=shown)
    called = next(item for item in seen.output if item.type == "mcp_call")
    check((called.name, called.status) == ("rune@system-time", "completed"), called)
    check('"UTC"' in called.arguments and "UTC" in called.output, called)
    streamed = list(client.responses.create(model="plain", input=call, metadata=shown, stream=True))
    kinds = [event.type for event in streamed if "mcp_call" in event.type]
    check(kinds[-1] == "response.mcp_call.completed", kinds)
    check(streamed[-1].response.output[0].type == "mcp_call", streamed[-1])
    messages = [{"role": "user", "content": call}]
    done = client.chat.completions.create(model="plain", messages=messages, metadata=shown)
    check("rune@system-time answered" in done.choices[0].message.reasoning_content, done)
    done = client.chat.completions.create(model="plain", messages=messages)
    check("reasoning_content" not in done.choices[0].message.to_dict(), done)
    failed = client.responses.create(
        model="plain", input='/tool rune__system-time {"timezone": 5}', metadata=shown
    )
    called = next(item for item in failed.output if item.type == "mcp_call")
    check(called.status == "failed" and called.error, called)


def errors():
    messages = [{"role": "user", "content": "hi"}]

    def chat(**more):
        return lambda: client.chat.completions.create(**{"model": "plain", "messages": messages, **more})

    error = refused(openai.NotFoundError, chat(model="nobody", stream=True))
    check((error.code, error.type) == ("model_not_found", "invalid_request_error"), error.body)
    function = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for name, value in {"n": 2, "tools": [function], "logprobs": True, "stop": ["x"]}.items():
        error = refused(openai.BadRequestError, chat(**{name: value}))
        check((error.code, error.param) == ("unsupported_parameter", name), error.body)
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    error = refused(openai.BadRequestError, chat(messages=[{"role": "user", "content": [audio]}]))
    check((error.code, error.param) == ("unsupported_content", "messages"), error.body)
    error = refused(openai.BadRequestError, chat(messages=[]))
    check(error.param == "messages", error.body)
    refused(openai.NotFoundError, lambda: client.responses.create(model="nobody", input="hi"))
    refused(openai.NotFoundError, lambda: client.responses.retrieve("resp_" + "0" * 32))
    refused(openai.NotFoundError, lambda: client.responses.retrieve("resp_x"))
    error = refused(
        openai.BadRequestError,
        lambda: client.responses.create(
            model="plain", input="x", previous_response_id="resp_" + "0" * 32
        ),
    )
    check(error.code == "previous_response_not_found", error.body)


def parallel():
    def one(n):
        messages = [{"role": "user", "content": f"number {n}"}]
        stream = client.chat.completions.create(model="plain", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        whole = client.responses.create(model="plain", input=f"number {n}").output_text
        return n, text, whole

    with ThreadPoolExecutor(6) as pool:
        for n, text, whole in pool.map(one, range(6)):
            check(text == whole == f"Echo: number {n}", n, text, whole)


def conversations():
    """A client that sends its whole history, as chat programs do."""
    messages = []
    sessions = set()
    for text in ["one", "two", "three"]:
        messages.append({"role": "user", "content": text})
        raw = client.chat.completions.with_raw_response.create(
            model="plain", messages=messages, user="ada"
        )
        sessions.add(raw.headers["x-rune-session-id"])
        answer = raw.parse().choices[0].message.content
        check(answer == f"Echo: {text}", answer)
        messages.append({"role": "assistant", "content": answer})
    check(sessions == {"dev.plain:ada"}, sessions)
    messages[-1]["content"] = "something else"
    messages.append({"role": "user", "content": "four"})
    raw = client.chat.completions.with_raw_response.create(model="plain", messages=messages, user="ada")
    check(raw.headers["x-rune-session-id"] not in sessions, raw.headers)
    answer = raw.parse().choices[0].message.content
    check("You: something else" in answer and answer.endswith("four"), answer)


def approvals():
    asked = client.responses.create(model="ask", input="go")
    check(asked.status == "incomplete", asked)
    check(asked.incomplete_details.reason == "approval_required", asked)
    question = asked.output[-1]
    check((question.type, question.name) == ("mcp_approval_request", "touch"), question)
    check(client.responses.retrieve(asked.id).to_dict() == asked.to_dict())
    answer = {"type": "mcp_approval_response", "approval_request_id": question.id, "approve": True}
    done = client.responses.create(model="ask", input=[answer], previous_response_id=asked.id)
    check((done.id, done.status, done.output_text) == (asked.id, "completed", "done"), done)
    check(client.responses.retrieve(done.id).to_dict() == done.to_dict(), done)
    with client.responses.stream(model="ask", input="go") as stream:
        events = list(stream)
    check(events[-1].type == "response.incomplete", [event.type for event in events])
    question = events[-1].response.output[-1]
    answer = {**answer, "approval_request_id": question.id, "approve": False}
    events = list(
        client.responses.create(
            model="ask", input=[answer], previous_response_id=events[-1].response.id, stream=True
        )
    )
    check(events[-1].type == "response.completed", [event.type for event in events])
    check(events[-1].response.output_text == "done", events[-1])
    messages = [{"role": "user", "content": "go"}]
    waits = client.chat.completions.create(model="ask", messages=messages)
    check("Waiting for approval of `touch`" in waits.choices[0].message.content, waits)


def leave():
    """Leaves in the middle of a streamed response, and says which it was."""
    stream = client.responses.create(model="slow", input="go", stream=True)
    for event in stream:
        if event.type == "response.created":
            found = event.response.id
        if event.type == "response.output_text.delta":
            break
    stream.close()
    print(found)


def come_back():
    """Looks at a response until it is whole."""
    found = client.responses.retrieve(sys.argv[3])
    while found.status in ("queued", "in_progress"):
        found = client.responses.retrieve(sys.argv[3])
    check(found.status == "completed", found)
    print(found.output_text)


globals()[sys.argv[2]]()
