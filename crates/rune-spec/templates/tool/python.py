"""One JSON object on standard input, one JSON value on standard output; standard error is for diagnostics."""

import json
import sys

text = json.load(sys.stdin)["text"]
# A tool that fails writes why to standard error and ends with an exit code that is not 0: sys.exit("no such text")
json.dump({"text": text}, sys.stdout)
