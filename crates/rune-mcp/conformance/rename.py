"""A proxy that gives agents the names that the suite calls its fixtures by, which have underscores that names of agents cannot have.

Usage: rename.py UPSTREAM. Prints the URL that it listens on. Nothing else of a message is changed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "rune-http" / "conformance"))
from proxy import serve  # noqa: E402

FIXTURES = ("test_simple_text", "test_error_handling", "test_tool_with_progress")
NAMES = [(fixture, fixture.replace("_", "-")) for fixture in FIXTURES]


def to_agents(text: str) -> str:
    for fixture, agent in NAMES:
        text = text.replace(fixture, agent)
    return text


def to_fixtures(line: bytes) -> bytes:
    for fixture, agent in NAMES:
        line = line.replace(agent.encode(), fixture.encode())
    return line


serve(
    sys.argv[1],
    request=lambda body: to_agents(body.decode(errors="surrogateescape")).encode(errors="surrogateescape"),
    answer=to_fixtures,
    header=to_agents,
)
