"""Reads ctest's JUnit file and prints every failed and skipped test with its reason.

usage: python3 scripts/ctest_summary.py FILE

The last line is "PASSED FAILED SKIPPED" in figures, for scripts/test to add up. No file, or no test in it, is a failure:
a suite that did not run has not passed.
"""

import collections
import pathlib
import re
import sys
import xml.etree.ElementTree

# GoogleTest prints "file.cc:12: Skipped", then the reason, then "[  SKIPPED ] Suite.Test".
SKIP_REASON = re.compile(r": Skipped\n(.*?)\n+\[  SKIPPED \]", re.DOTALL)


def reason_of(case):
    output = case.findtext("system-out") or ""
    match = SKIP_REASON.search(output)
    if match and match[1].strip():
        return " ".join(match[1].split())
    skipped = case.find("skipped")
    message = skipped.get("message") if skipped is not None else None
    return "disabled" if case.get("status") == "disabled" else (message or "no reason given")


def main():
    path = pathlib.Path(sys.argv[1])
    if not path.is_file():
        print("    ctest left no results")
        print("0 1 0")
        return
    cases = xml.etree.ElementTree.parse(path).getroot().findall("testcase")
    passed, failed = 0, 0
    skipped = collections.defaultdict(list)
    for case in cases:
        status = case.get("status")
        if status == "run":
            passed += 1
        elif status in ("notrun", "disabled"):
            skipped[reason_of(case)].append(case.get("name"))
        else:
            failed += 1
            print(f"    FAILED  {case.get('name')}")
    for reason, names in sorted(skipped.items()):
        print(f"    SKIPPED {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}")
    if not cases:
        print("    ctest ran no test")
        failed = 1
    print(passed, failed, sum(len(names) for names in skipped.values()))


if __name__ == "__main__":
    main()
