"""Counts words: one JSON object on standard input, one JSON value on standard output."""

import json
import sys

text = json.load(sys.stdin)["text"]
json.dump({"words": len(text.split()), "characters": len(text)}, sys.stdout)
