"""Compares what a run of the kit reported with what may fail. Usage: judge.py NAME JUNIT_XML EXPECTED.

A line of EXPECTED is `TEST: REASON`. A failure that is not listed, and one that is listed and does not happen, both fail.
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

name, report, expected_path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
lines = expected_path.read_text().splitlines() if expected_path.exists() else []
expected = dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))

counts: Counter[str] = Counter()
failures: dict[str, str] = {}
for case in ElementTree.parse(report).iter("testcase"):
    test = f"{case.get('classname', '').rpartition('tests.')[2]}.{case.get('name')}"
    fault = next((case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None), None)
    skipped = case.find("skipped")
    if fault is not None:
        counts["failed"] += 1
        failures[test] = (fault.get("message") or fault.text or "").strip()
    elif skipped is not None:
        counts["xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"] += 1
    else:
        counts["passed"] += 1

new = {test: why for test, why in failures.items() if test not in expected}
gone = [test for test in expected if test not in failures]
good = not new and not gone and counts["passed"] > 0
said = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
print(f"{'ok   ' if good else 'FAIL '} {name}: {said}; {len(failures) - len(new)} as listed")
for test, why in new.items():
    print(f"  failed: {test}\n    " + "\n    ".join(why.splitlines()[:6]))
for test in gone:
    print(f"  listed, but does not fail: {test}")
sys.exit(0 if good else 1)
