"""A proxy that tells the agent the ids of messages: the kit says by them what it wants of the agent, which is told only what a message says.

The id is put before the text, as `<ID> text`, and taken out of the texts of answers again. The kit adds a slash to the URL of a JSON-RPC
interface, which is taken off again, and has no credentials, which are added. Nothing else is changed.
Usage: mark.py UPSTREAM [KEY]. Prints the URL that it listens on.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "rune-http" / "conformance"))
from proxy import serve  # noqa: E402

MARK = re.compile(rb"<[\w.-]+> ")


def marked(body: bytes) -> bytes:
    try:
        call = json.loads(body)
        message = call["params"]["message"] if "params" in call else call["message"]
        part = next(part for part in message["parts"] if isinstance(part.get("text"), str))
        part["text"] = f"<{message['messageId']}> {part['text']}"
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        # Not a message; what is wrong with it is for the gateway to say.
        return body
    return json.dumps(call).encode()


serve(
    sys.argv[1],
    request=marked,
    answer=lambda line: MARK.sub(b"", line),
    path=lambda path: path.rstrip("/"),
    more={"authorization": f"Bearer {key}" for key in sys.argv[2:]},
)
