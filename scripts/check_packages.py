"""Check the metadata of all colcon packages; prints each problem and exits 1 if there is one.

What is checked, because each has gone unnoticed somewhere before: package.xml is valid (an invalid one makes colcon
treat the package as plain Python, silently); setup.py and package.xml agree; every ROS package that the code imports
is declared as a dependency; every console script and every message file is real; the layering of the workspace
(S1 and S2 never import each other, plain modules never import rclpy).
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from ament_index_python.packages import get_packages_with_prefixes
from catkin_pkg.package import InvalidPackage, Package, parse_package

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_PATHS = ("src", "launch", "training")
# Which package of this workspace may import which.
MAY_IMPORT = {
    "dual_nav_util": set(),
    "dual_nav_resize": set(),
    "s1_controller_node": {"dual_nav_resize", "dual_nav_util", "nav_msgs_ext"},
    "s2_planner_node": {"dual_nav_util", "nav_msgs_ext"},
    "dual_nav_training": {"dual_nav_util", "s1_controller_node", "s2_planner_node", "nav_msgs_ext", "nav_sim"},
    # The models only in latents.py: an oracle's plans, for an S1 that drives by latents.
    "nav_sim": {"dual_nav_util", "nav_msgs_ext", "s1_controller_node", "s2_planner_node"},
    "nav_viewer": {"dual_nav_util", "nav_msgs_ext"},
    "dual_nav_bringup": {"dual_nav_training", "dual_nav_util", "nav_msgs_ext", "nav_sim"},
}
# Modules of the node packages that may import rclpy; everything else there is plain Python.
ROS_MODULES = {"node.py", "main.py", "navigate.py"}


def imports_of(path: Path) -> set[str]:
    """Top-level names of everything `path` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def colcon_types() -> dict[str, str]:
    """Package name -> build type, as colcon sees them."""
    command = [sys.executable, "-m", "colcon", "--log-base", os.devnull, "list", "--base-paths", *PACKAGE_PATHS]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {line.split("\t")[0]: line.split("\t")[2].strip("()") for line in listing.splitlines()}


def check_python_package(folder: Path, package: Package, ros_packages: set[str]) -> list[str]:
    problems: list[str] = []
    name = package.name
    setup = (folder / "setup.py").read_text()
    for field, value in (("version", package.version), ("license", package.licenses[0])):
        if f'{field}="{value}"' not in setup:
            problems.append(f"{name}: setup.py and package.xml disagree on {field} (package.xml: {value})")
    if f'PACKAGE = "{name}"' not in setup:
        problems.append(f"{name}: setup.py is for another package")
    if not (folder / "resource" / name).is_file():
        problems.append(f"{name}: resource/{name} is missing, the ament index will not know the package")
    for module, function in re.findall(r'"\w+ = ([\w.]+):(\w+)"', setup):
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.origin:
            problems.append(f"{name}: console script refers to module {module}, which does not exist")
        elif f"def {function}(" not in Path(spec.origin).read_text():
            problems.append(f"{name}: console script refers to {module}:{function}, which does not exist")

    run_time = {d.name for d in package.exec_depends}
    for_tests = run_time | {d.name for d in package.test_depends}
    for path in sorted(folder.rglob("*.py")):
        if {"build", "install", "__pycache__"} & set(path.parts):
            continue
        is_test = "test" in path.relative_to(folder).parts
        used = imports_of(path) - {name}
        where = path.relative_to(ROOT)
        for missing in sorted((used & ros_packages) - (for_tests if is_test else run_time)):
            problems.append(f"{where}: imports {missing}, which package.xml does not declare")
        if not is_test:
            for forbidden in sorted((used & set(MAY_IMPORT)) - MAY_IMPORT[name]):
                problems.append(f"{where}: {name} must not import {forbidden}")
            if name.endswith("_node") and "rclpy" in used and path.name not in ROS_MODULES:
                problems.append(f"{where}: plain modules must not import rclpy")
    return problems


def main() -> int:
    problems: list[str] = []
    types = colcon_types()
    folders = sorted(path.parent for top in PACKAGE_PATHS for path in (ROOT / top).rglob("package.xml"))
    ros_packages = set(get_packages_with_prefixes()) | set(MAY_IMPORT)
    for folder in folders:
        try:
            package = parse_package(str(folder), warnings=problems)
        except InvalidPackage as error:
            problems.append(f"{folder.relative_to(ROOT)}: {error}")
            continue
        wanted = f"ros.{package.get_build_type()}"
        if types.get(package.name) != wanted:
            problems.append(f"{package.name}: colcon sees {types.get(package.name)}, not {wanted}")
        if package.licenses != ["Apache-2.0"]:
            problems.append(f"{package.name}: licence {package.licenses} is not that of the repository (Apache-2.0)")
        if package.get_build_type() == "ament_python":
            problems += check_python_package(folder, package, ros_packages)
        else:
            listed = set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (folder / "CMakeLists.txt").read_text()))
            there = {str(p.relative_to(folder)) for d in ("msg", "srv", "action") for p in (folder / d).glob("*.*")}
            for path in sorted(listed ^ there):
                problems.append(
                    f"{package.name}: {path} is only in {'CMakeLists.txt' if path in listed else 'its folder'}"
                )
    for problem in problems:
        print(problem)
    print(f"{len(folders)} packages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
