"""Reads ROS 2 launch XML, the part of it this project's launch files use, on machines without ROS's launch package.

The same files are read by `ros2 launch`; the rules here are its rules:
- `arg`, `let`: one flat set of names. An `arg` that is set already (command line, or the file that includes this
  one) keeps its value. A `group` restores the names as they were before it. What an included file must be given has
  to be given in the `include`, even if it is set already.
- `node`: pkg, exec, name, namespace, args, output, respawn, respawn_delay, if, unless; inside: param (name + value
  [+ type="str"], or from=), remap, env.
- `executable`: cmd, name, output, respawn, respawn_delay, if, unless; inside: env.
- `include`: file, if, unless; inside: arg.
- `$(var name)`, `$(env NAME [default])`, `$(find-pkg-share package)`, nested and quoted.
Everything else is a LaunchFileError that names file and line.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory


class LaunchFileError(Exception):
    """Something in a launch file, or in the arguments given to it, cannot be used; the message says where."""


@dataclass(frozen=True)
class Argument:
    """An argument a launch file declares."""

    name: str
    default: str | None  # as written, substitutions unresolved; None: must be given
    description: str
    choices: tuple[str, ...]  # empty: any value


@dataclass(frozen=True)
class Process:
    """A process to start."""

    label: str  # what its log lines begin with
    command: tuple[str, ...]
    environment: Mapping[str, str]  # added to the launcher's own
    respawn: bool
    respawn_delay: float  # [s]


# ------------------------------------------------------------------------------------------------- reading the XML


@dataclass
class Element:
    """An XML element that knows the line it began on."""

    tag: str
    attributes: dict[str, str]
    path: Path
    line: int
    children: list[Element] = field(default_factory=list)

    def error(self, text: str) -> LaunchFileError:
        return LaunchFileError(f"{self.path}:{self.line}: {text}")

    def check(self, allowed: set[str], required: set[str] = frozenset(), children: set[str] = frozenset()) -> None:
        """LaunchFileError for attributes and children that are not known here, or that are missing."""
        for name in sorted(set(self.attributes) - allowed - required):
            known = ", ".join(sorted(allowed | required)) or "none"
            raise self.error(f"<{self.tag}> attribute '{name}' is not supported (supported: {known})")
        for name in sorted(required - set(self.attributes)):
            raise self.error(f"<{self.tag}> needs the attribute '{name}'")
        for child in self.children:
            if child.tag not in children:
                known = ", ".join(sorted(children)) or "nothing"
                raise child.error(f"<{child.tag}> is not supported inside <{self.tag}> (supported: {known})")


def parse(path: Path) -> Element:
    """Root element of a launch file."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LaunchFileError(f"{path}: {error.strerror}") from error
    root = Element("", {}, path, 0)
    open_elements = [root]
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, path, parser.CurrentLineNumber)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def text_between(data: str) -> None:
        if data.strip():
            raise LaunchFileError(f"{path}:{parser.CurrentLineNumber}: text '{data.strip()}' between elements")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: open_elements.pop()
    parser.CharacterDataHandler = text_between
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise LaunchFileError(f"{path}:{error.lineno}: {expat.ErrorString(error.code)}") from error
    launch = root.children[0]
    if launch.tag != "launch":
        raise launch.error(f"the root element is <{launch.tag}>, not <launch>")
    return launch


# --------------------------------------------------------------------------------------------------- substitutions

WORD_END = {None: " )", "'": "'", '"': '"'}


class _Substitution:
    """One text with `$(...)` in it, read from left to right."""

    def __init__(self, text: str, element: Element, variables: Mapping[str, str]):
        self.text = text
        self.element = element
        self.variables = variables
        self.at = 0

    def resolve(self) -> str:
        return self._until("")

    def words(self) -> list[str]:
        """The words of a command line, as ros2 launch splits it.

        Only the text between substitutions is split: what a substitution gives stays in one word, also with spaces,
        and quotes cannot go around it.
        """
        words: list[str] = []
        word: str | None = None  # that may go on
        while self.at < len(self.text):
            if self.text.startswith("$(", self.at):
                self.at += 2
                word = (word or "") + self._call()
                continue
            text = self._literal()
            try:
                pieces = shlex.split(text)
            except ValueError as error:
                raise self.element.error(f"{error} in '{self.text}' (quotes end at a substitution)") from None
            if word is not None:
                if text[0].isspace():
                    words.append(word)
                else:
                    pieces[0] = word + pieces[0]
            word = None if text[-1].isspace() else pieces.pop()
            words += pieces
        return words if word is None else [*words, word]

    def _literal(self) -> str:
        """Text up to the next substitution or to the end."""
        end = self.text.find("$(", self.at)
        text = self.text[self.at :] if end < 0 else self.text[self.at : end]
        self.at += len(text)
        return re.sub(r"\\(.)", r"\1", text)

    def _until(self, end: str) -> str:
        """Resolved text up to one of the characters in `end`, or to the end of the text."""
        parts = []
        while self.at < len(self.text) and (not end or self.text[self.at] not in end):
            if self.text.startswith("$(", self.at):
                self.at += 2
                parts.append(self._call())
            elif self.text[self.at] == "\\" and self.at + 1 < len(self.text):
                parts.append(self.text[self.at + 1])
                self.at += 2
            else:
                parts.append(self.text[self.at])
                self.at += 1
        return "".join(parts)

    def _word(self) -> str:
        quote = self.text[self.at] if self.text[self.at : self.at + 1] in ("'", '"') else None
        if quote is None:
            return self._until(WORD_END[None])
        self.at += 1
        word = self._until(WORD_END[quote])
        if self.at >= len(self.text):
            raise self.element.error(f"{quote} is not closed in '{self.text}'")
        self.at += 1
        return word

    def _call(self) -> str:
        words = []
        while True:
            while self.text[self.at : self.at + 1] == " ":
                self.at += 1
            if self.at >= len(self.text):
                raise self.element.error(f"$( is not closed in '{self.text}'")
            if self.text[self.at] == ")":
                self.at += 1
                break
            words.append(self._word())
        name, arguments = (words[0], words[1:]) if words else ("", [])
        return self._value(name, arguments)

    def _value(self, name: str, arguments: list[str]) -> str:
        counts = {"var": (1, 1), "env": (1, 2), "find-pkg-share": (1, 1)}
        if name not in counts:
            raise self.element.error(f"$({name}) is not supported (supported: {', '.join(counts)}) in '{self.text}'")
        fewest, most = counts[name]
        if not fewest <= len(arguments) <= most:
            counted = f"{fewest} to {most} words, {len(arguments)} given"
            raise self.element.error(f"$({name}) takes {counted}: '{self.text}'")
        first = arguments[0]
        if name == "var":
            if first not in self.variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise self.element.error(f"$(var {first}) is not set here (set: {known})")
            return self.variables[first]
        if name == "env":
            value = os.environ.get(first, arguments[1] if len(arguments) == 2 else None)
            if value is None:
                raise self.element.error(f"$(env {first}): no such environment variable, and no default given")
            return value
        try:
            return get_package_share_directory(first)
        except (PackageNotFoundError, ValueError, LookupError) as error:
            raise self.element.error(f"$(find-pkg-share {first}): {error}") from error


# ------------------------------------------------------------------------------------------------------ evaluation

CONDITIONS = {"if", "unless"}
PROCESS = {"name", "output", "respawn", "respawn_delay"} | CONDITIONS
ACTIONS = {"arg", "let", "group", "node", "executable", "include"}


class _Evaluation:
    """Walks launch files in order; `variables` is what `$(var)` sees at that point."""

    def __init__(self, variables: Mapping[str, str]):
        self.variables = dict(variables)
        self.processes: list[Process] = []

    def text(self, element: Element, attribute: str, default: str | None = None) -> str | None:
        value = element.attributes.get(attribute)
        return default if value is None else _Substitution(value, element, self.variables).resolve()

    def words(self, element: Element, attribute: str) -> list[str]:
        return _Substitution(element.attributes.get(attribute, ""), element, self.variables).words()

    def boolean(self, element: Element, attribute: str) -> bool:
        value = self.text(element, attribute)
        if value.lower() in ("true", "1"):
            return True
        if value.lower() in ("false", "0"):
            return False
        raise element.error(f"{attribute}='{value}' must be true, 1, false or 0")

    def wanted(self, element: Element) -> bool:
        if set(element.attributes) >= CONDITIONS:
            raise element.error("only one of 'if' and 'unless' may be given")
        if "if" in element.attributes:
            return self.boolean(element, "if")
        return not ("unless" in element.attributes and self.boolean(element, "unless"))

    def file(self, path: Path) -> None:
        root = parse(path)
        root.check({"version"}, children=ACTIONS)
        self.actions(root)

    def actions(self, parent: Element) -> None:
        for element in parent.children:
            getattr(self, f"do_{element.tag}")(element)

    def do_arg(self, element: Element) -> None:
        argument = _argument(element)
        if argument.name not in self.variables:
            if argument.default is None:
                raise element.error(f"argument '{argument.name}' must be given: {argument.description}")
            self.variables[argument.name] = self.text(element, "default")
        value = self.variables[argument.name]
        if argument.choices and value not in argument.choices:
            raise element.error(f"{argument.name}:='{value}' must be one of {', '.join(argument.choices)}")

    def do_let(self, element: Element) -> None:
        element.check(CONDITIONS, {"name", "value"})
        if self.wanted(element):
            self.variables[self.text(element, "name")] = self.text(element, "value")

    def do_group(self, element: Element) -> None:
        element.check(CONDITIONS, children=ACTIONS)
        if self.wanted(element):
            before = dict(self.variables)
            self.actions(element)
            self.variables = before

    def do_include(self, element: Element) -> None:
        element.check(CONDITIONS, {"file"}, {"arg"})
        if not self.wanted(element):
            return
        given = {}
        for child in element.children:
            child.check(set(), {"name", "value"})
            given[self.text(child, "name")] = self.text(child, "value")
        self.variables.update(given)
        path = Path(self.text(element, "file"))
        for argument in declared_arguments(path):
            if argument.default is None and argument.name not in given:
                raise element.error(f"argument '{argument.name}' of {path.name} must be given inside <include>")
        self.file(path)

    def do_node(self, element: Element) -> None:
        element.check(PROCESS | {"namespace", "args"}, {"pkg", "exec"}, {"param", "remap", "env"})
        if not self.wanted(element):
            return
        ros_arguments: list[str] = []
        name = self.text(element, "name")
        namespace = (self.text(element, "namespace") or "").strip("/")
        if name:
            ros_arguments += ["-r", f"__node:={name}"]
        if namespace:
            ros_arguments += ["-r", f"__ns:=/{namespace}"]
        for child in element.children:
            if child.tag == "param":
                ros_arguments += self.parameter(child)
        for child in element.children:
            if child.tag == "remap":
                child.check(set(), {"from", "to"})
                ros_arguments += ["-r", f"{self.text(child, 'from')}:={self.text(child, 'to')}"]
        package, executable = self.text(element, "pkg"), self.text(element, "exec")
        command = [find_executable(package, executable, element), *self.words(element, "args")]
        label = name or executable
        self.add(element, f"{namespace}/{label}" if namespace else label, [*command, "--ros-args", *ros_arguments])

    def parameter(self, element: Element) -> list[str]:
        if "from" in element.attributes:
            element.check(set(), {"from"})
            path = Path(self.text(element, "from"))
            if not path.is_file():
                raise element.error(f"no parameter file {path}")
            return ["--params-file", str(path)]
        element.check({"type"}, {"name", "value"})
        name, value = self.text(element, "name"), self.text(element, "value")
        kind = element.attributes.get("type", "")
        if kind not in ("", "str"):
            raise element.error(f"type='{kind}' is not supported (supported: str; without type: read as YAML)")
        # Text is quoted, so that one with a colon, or an empty one, arrives as it is.
        if kind == "str" or not isinstance(_yaml(value), (bool, int, float, list)):
            value = json.dumps(value, ensure_ascii=False)
        return ["-p", f"{name}:={value}"]

    def do_executable(self, element: Element) -> None:
        element.check(PROCESS, {"cmd"}, {"env"})
        if not self.wanted(element):
            return
        command = self.words(element, "cmd")
        if not command:
            raise element.error("cmd is empty")
        self.add(element, self.text(element, "name") or Path(command[0]).name, command)

    def add(self, element: Element, label: str, command: list[str]) -> None:
        environment = {}
        for child in element.children:
            if child.tag == "env":
                child.check(set(), {"name", "value"})
                environment[self.text(child, "name")] = self.text(child, "value")
        output = self.text(element, "output", "screen")
        if output not in ("screen", "both"):
            raise element.error(f"output='{output}' is not supported (supported: screen, both)")
        delay = self.text(element, "respawn_delay", "0")
        if not re.fullmatch(r"\d+(\.\d*)?", delay):
            raise element.error(f"respawn_delay='{delay}' must be seconds, 0 or more")
        labels = [process.label for process in self.processes]
        if label in labels:
            raise element.error(f"a second process with the name '{label}': give each its own name")
        respawn = "respawn" in element.attributes and self.boolean(element, "respawn")
        self.processes.append(Process(label, tuple(command), environment, respawn, float(delay)))


def _yaml(value: str) -> object:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _argument(element: Element) -> Argument:
    element.check({"default", "description"}, {"name"}, {"choice"})
    for child in element.children:
        child.check(set(), {"value"})
    choices = tuple(child.attributes["value"] for child in element.children)
    attributes = element.attributes
    description = " ".join(attributes.get("description", "").split())
    return Argument(attributes["name"], attributes.get("default"), description, choices)


def find_executable(package: str, executable: str, element: Element) -> str:
    """Path of an installed executable of a package: PREFIX/lib/PACKAGE/EXECUTABLE."""
    try:
        folder = Path(get_package_prefix(package)) / "lib" / package
    except (PackageNotFoundError, ValueError, LookupError) as error:
        raise element.error(f"pkg='{package}': {error}") from error
    path = folder / executable
    if not (path.is_file() and os.access(path, os.X_OK)):
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())) if folder.is_dir() else "none"
        raise element.error(f"exec='{executable}': no such executable in {folder} (there: {there})")
    return str(path)


# ------------------------------------------------------------------------------------------------ public functions


def declared_arguments(path: Path) -> list[Argument]:
    """The arguments of a launch file and of the files it includes, each name once, in order."""
    found: dict[str, Argument] = {}
    evaluation = _Evaluation({})

    def walk(parent: Element, given: frozenset[str]) -> None:
        for element in parent.children:
            if element.tag == "arg":
                argument = _argument(element)
                if argument.name not in given:
                    found.setdefault(argument.name, argument)
                # One that must be given has no value here; what its value leads to is not needed for a list.
                evaluation.variables.setdefault(argument.name, evaluation.text(element, "default", ""))
            elif element.tag == "group":
                walk(element, given)
            elif element.tag == "include":
                names = frozenset(child.attributes.get("name", "") for child in element.children)
                walk(parse(Path(evaluation.text(element, "file"))), given | names)

    walk(parse(path), frozenset())
    return list(found.values())


def load(path: Path, arguments: Mapping[str, str]) -> list[Process]:
    """The processes a launch file describes.

    Raises LaunchFileError, with file and line, for whatever in the file or in the `arguments` cannot be used.
    """
    known = [argument.name for argument in declared_arguments(path)]
    for name in arguments:
        if name not in known:
            raise LaunchFileError(f"{path}: no argument '{name}' (there are: {', '.join(known) or 'none'})")
    evaluation = _Evaluation(arguments)
    evaluation.file(path)
    if not evaluation.processes:
        raise LaunchFileError(f"{path}: nothing to start")
    return evaluation.processes
