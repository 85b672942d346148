"""All benchmarks, one after the other: what `make bench` runs.

    python bench/run.py [s1] [sampler] [s2] [overhead] [motion]

Each is a program of its own with more options (`python bench/bench_s1.py --help`). Without names all run; together
they take about a quarter of an hour on two cores. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BENCHMARKS = {
    "s1": ("bench_s1.py", "S1 sampling against plain sampling"),
    "sampler": ("sampler_deviation.py", "how far NavDP's fast sampler parts from the reference"),
    "s2": ("bench_s2.py", "S2 step against full recomputation"),
    "overhead": ("bench_overhead.py", "what the runtime adds between camera stamp and command"),
    "motion": ("motion_course.py", "tracking on a simulated course"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    status = 0
    try:
        for name in names:
            script, title = BENCHMARKS[name]
            print(f"\n== {title}", flush=True)
            status = max(status, subprocess.run([sys.executable, str(FOLDER / script)]).returncode)
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
