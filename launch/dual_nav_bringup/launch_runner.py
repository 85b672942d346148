"""`run_launch FILE [name:=value …]`: starts a launch file where ROS's launch package is not installed.

On a ROS installation the same file is started by `ros2 launch dual_nav_bringup FILE name:=value …`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

from dual_nav_bringup.launch_file import Argument, LaunchFileError, declared_arguments, load
from dual_nav_bringup.supervisor import Supervisor, write_line

PACKAGE = "dual_nav_bringup"


def find_launch_file(name: str) -> Path:
    """A path, or the name of one of this package's launch files."""
    path = Path(name)
    folder = Path(get_package_share_directory(PACKAGE)) / "launch"
    if path.is_file():
        return path.resolve()
    if (folder / name).is_file():
        return folder / name
    there = ", ".join(sorted(entry.name for entry in folder.glob("*.launch.xml")))
    raise LaunchFileError(f"no launch file '{name}', neither here nor in {PACKAGE} (there: {there})")


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """{'model': 'folder'} from ['model:=folder']."""
    assignments = {}
    for word in words:
        name, assign, value = word.partition(":=")
        if not assign or not name:
            raise LaunchFileError(f"'{word}' is not of the form name:=value")
        assignments[name] = value
    return assignments


def describe(arguments: Sequence[Argument]) -> str:
    """What `--show-args` prints."""
    if not arguments:
        return "no arguments"
    lines = ["arguments (name:=value):"]
    for argument in arguments:
        default = "must be given" if argument.default is None else f"default: '{argument.default}'"
        lines.append(f"  {argument.name}  ({default})")
        if argument.choices:
            lines.append(f"      one of: {', '.join(argument.choices)}")
        if argument.description:
            lines.append(f"      {argument.description}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="run_launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Ctrl-C stops all processes. The exit status is that of the first process that failed.",
    )
    parser.add_argument("file", help=f"launch file (.launch.xml): a path, or the name of one of {PACKAGE}'s")
    parser.add_argument("assignments", nargs="*", metavar="name:=value", help="arguments of the launch file")
    parser.add_argument("-s", "--show-args", action="store_true", help="print the launch file's arguments and end")
    options = parser.parse_args(words)
    try:
        path = find_launch_file(options.file)
        if options.show_args:
            print(describe(declared_arguments(path)))
            return 0
        processes = load(path, parse_assignments(options.assignments))
    except LaunchFileError as error:
        print(f"run_launch: {error}", file=sys.stderr)
        return 2
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return Supervisor(processes, write_line, colour).run()


if __name__ == "__main__":
    sys.exit(main())
