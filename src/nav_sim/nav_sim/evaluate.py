"""Evaluate in this process: `python -m nav_sim.evaluate --episodes 60 --s2 oracle --s1 oracle --out runs/eval`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .episodes import FAMILIES, SPLITS, SUCCESS_RADIUS
from .evaluation import CONTROLLERS, PLANNERS, InProcess, Oracles, Output, ResumeError, Settings, evaluate, table
from .gl import RenderingError
from .scene import LOOKS, SceneError
from .simulator import Config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=60, help="in all; the families in turn")
    parser.add_argument("--seed", type=int, default=0, help="0 to 999")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated")
    parser.add_argument("--s2", choices=sorted(PLANNERS), default="oracle")
    parser.add_argument("--s1", choices=sorted(CONTROLLERS), default="oracle")
    parser.add_argument("--look", choices=LOOKS, default=None, help="default: furniture where it is installed")
    parser.add_argument("--radius", type=float, default=SUCCESS_RADIUS, help="metres to the goal object at the STOP")
    parser.add_argument("--time-limit", type=float, default=120.0, help="simulated seconds")
    parser.add_argument("--processes", type=int, default=0, help="0: one per core")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), help="folder; an interrupted run goes on"
    )
    parser.add_argument("--no-pictures", action="store_true")
    arguments = parser.parse_args()
    try:
        settings = Settings(
            split=arguments.split,
            seed=arguments.seed,
            episodes=arguments.episodes,
            families=tuple(arguments.families.split(",")),
            s2=arguments.s2,
            s1=arguments.s1,
            radius=arguments.radius,
            time_limit=arguments.time_limit,
            simulator=Config(look=arguments.look or ""),
        )
        output = Output(arguments.out, not arguments.no_pictures)
        summary = evaluate(settings, output, InProcess(Oracles(settings.s2, settings.s1)), arguments.processes)
    except (ValueError, ResumeError, RenderingError, SceneError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return 130
    print(table(summary))
    print(f"pictures and figures in {arguments.out}")
    print(
        json.dumps({"success": summary["all"]["success"]["value"], "spl": round(summary["all"]["spl"]["value"], 4)})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
