"""Print one line per package, every skipped test with its reason, and the totals of the last `colcon test`."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build"


def main() -> int:
    totals: Counter[str] = Counter()
    skipped: list[str] = []
    for report in sorted(BUILD.glob("*/pytest.xml")):
        counts: Counter[str] = Counter()
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                counts["failed"] += 1
            elif (skip := case.find("skipped")) is not None:
                counts["skipped"] += 1
                skipped.append(f"  {report.parent.name}: {name}: {skip.get('message')}")
            else:
                counts["passed"] += 1
        totals += counts
        seconds = sum(float(case.get("time", 0)) for case in ElementTree.parse(report).getroot().iter("testcase"))
        print(
            f"{report.parent.name:22s} {counts['passed']:4d} passed {counts['failed']:3d} failed "
            f"{counts['skipped']:3d} skipped {seconds:6.0f} s"
        )
    if skipped:
        print("skipped:", *skipped, sep="\n")
    if not totals:
        print("no test ran: build/*/pytest.xml is missing", file=sys.stderr)
        return 1
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
