"""Evaluate the oracles in this process: `python -m nav_sim.evaluate --episodes 60 --out runs/oracle`.

Planner and controller as processes over DDS, and real ones: `make eval` (dual_nav_bringup.evaluate).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .episodes import FAMILIES, SPLITS, SUCCESS_RADIUS
from .evaluation import WITHHELD, EvaluationError, InProcess, Oracles, Output, Parts, Settings, evaluate, table
from .gl import RenderingError
from .scene import LOOKS, SceneError
from .simulator import Config

ERRORS = (ValueError, EvaluationError, RenderingError, SceneError, OSError)  # told in a line


def argument_parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """With the arguments that say what is evaluated, and where the results go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=60, help="in all; the families in turn (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="0 to 999 (default: 0)")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--family", default=",".join(FAMILIES), help="one, or several with commas (default: all)")
    parser.add_argument("--s2", default="oracle", help="oracle, random, or checkpoint folder (default: %(default)s)")
    parser.add_argument("--s1", default="oracle", help="oracle, or checkpoint folder (default: %(default)s)")
    parser.add_argument("--look", choices=LOOKS, default=None, help="default: furniture where it is installed")
    parser.add_argument(
        "--withhold", default="", help=f"what models do not get, in one process only: some of {', '.join(WITHHELD)}"
    )
    parser.add_argument("--radius", type=float, default=SUCCESS_RADIUS, help="metres to the goal object at the STOP")
    parser.add_argument("--time-limit", type=float, default=120.0, help="simulated seconds (default: 120)")
    parser.add_argument("--out", type=Path, default=out, help=f"folder; an interrupted run goes on (default: {out})")
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--video", action="store_true", help="an mp4 of every episode")
    parser.add_argument("--processes", type=int, default=0, help="in one process each; 0: one per core")
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What is evaluated. ValueError names what cannot be used."""
    return Settings(
        split=arguments.split,
        seed=arguments.seed,
        episodes=arguments.episodes,
        families=tuple(arguments.family.split(",")),
        s2=arguments.s2,
        s1=arguments.s1,
        radius=arguments.radius,
        time_limit=arguments.time_limit,
        simulator=Config(look=arguments.look or ""),
        withheld=tuple(filter(None, arguments.withhold.split(","))),
    )


def output_of(arguments: argparse.Namespace) -> Output:
    return Output(arguments.out, not arguments.no_pictures, arguments.video)


def report(summary: dict, out: Path) -> None:
    """Table and one JSON line."""
    print(table(summary))
    print(f"pictures and figures in {out}")
    means = {name: round(summary["all"][name]["value"], 4) for name in ("success", "spl", "navigation_error")}
    print(json.dumps({"episodes": summary["all"]["episodes"], **means, "out": str(out)}))


def command(
    parts: Callable[[Settings], Parts], description: str | None, out: Path, words: Sequence[str] | None = None
) -> int:
    """Evaluate what `parts` makes of the settings; the exit status of the command."""
    arguments = argument_parser(description, out).parse_args(words)
    try:
        settings = settings_of(arguments)
        summary = evaluate(settings, output_of(arguments), InProcess(parts(settings)), arguments.processes)
    except ERRORS as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return 130
    report(summary, arguments.out)
    return 0


def main() -> int:
    return command(lambda settings: Oracles(settings.s2, settings.s1), __doc__, Path("runs/evaluation"))


if __name__ == "__main__":
    sys.exit(main())
