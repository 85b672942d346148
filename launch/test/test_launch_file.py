"""The reader of launch files takes what `ros2 launch` takes of them and refuses the rest with file and line."""

from pathlib import Path

import pytest

pytest.importorskip("ament_index_python", reason="needs ROS 2: source scripts/env.sh")

from dual_nav_bringup.launch_file import LaunchFileError, declared_arguments, load


def write(folder: Path, body: str, name: str = "some.launch.xml") -> Path:
    path = folder / name
    path.write_text(f"<launch>\n{body}\n</launch>\n")
    return path


def only_process(folder: Path, body: str, **arguments: str):
    processes = load(write(folder, body), arguments)
    assert len(processes) == 1
    return processes[0]


def test_arguments_come_from_the_command_line_before_the_default(tmp_path):
    body = '<arg name="a" default="x"/><let name="b" value="$(var a)-$(var a)"/><executable cmd="echo $(var b)"/>'
    assert only_process(tmp_path, body).command == ("echo", "x-x")
    assert only_process(tmp_path, body, a="y").command == ("echo", "y-y")


def test_substitutions_nest_and_what_they_give_stays_one_word(tmp_path, monkeypatch):
    monkeypatch.delenv("DUAL_NAV_UNSET", raising=False)
    monkeypatch.setenv("DUAL_NAV_SET", "set")
    body = """<let name="a" value="$(env DUAL_NAV_UNSET 'two words $(env DUAL_NAV_SET)')"/>
    <executable cmd="echo  'b c'd -$(var a)/e$(var a) $(find-pkg-share dual_nav_bringup) $5 "/>"""
    command = only_process(tmp_path, body).command
    assert command[:3] == ("echo", "b cd", "-two words set/etwo words set")
    assert command[3].endswith("share/dual_nav_bringup")
    assert command[4:] == ("$5",)


def test_quotes_around_a_substitution_are_refused_as_ros2_launch_does(tmp_path):
    with pytest.raises(LaunchFileError, match="quotes end at a substitution"):
        only_process(tmp_path, """<let name="a" value="b"/><executable cmd="echo '$(var a)'"/>""")


def test_a_node_becomes_its_executable_with_ros_arguments_in_the_order_written(tmp_path):
    (tmp_path / "p.yaml").write_text("/**:\n  ros__parameters: {}\n")
    body = f"""<node pkg="dual_nav_bringup" exec="run_launch" name="n" namespace="robot1" args="--show-args 'a b'">
      <param from="{tmp_path}/p.yaml"/>
      <param name="text" value="one: two"/>
      <param name="number" value="3"/>
      <param name="digits" value="3" type="str"/>
      <param name="empty" value=""/>
      <remap from="rgb" to="camera/rgb"/>
      <env name="KEY" value="value"/>
    </node>"""
    process = only_process(tmp_path, body)
    executable, *rest = process.command
    assert executable.endswith("lib/dual_nav_bringup/run_launch")
    assert rest == [
        *("--show-args", "a b", "--ros-args", "-r", "__node:=n", "-r", "__ns:=/robot1"),
        *("--params-file", f"{tmp_path}/p.yaml", "-p", 'text:="one: two"', "-p", "number:=3"),
        *("-p", 'digits:="3"', "-p", 'empty:=""', "-r", "rgb:=camera/rgb"),
    ]
    assert process.environment == {"KEY": "value"}
    assert process.label == "robot1/n"
    assert not process.respawn


def test_respawn_is_read_with_its_delay(tmp_path):
    process = only_process(tmp_path, '<executable cmd="true" respawn="true" respawn_delay="2.5"/>')
    assert process.respawn
    assert process.respawn_delay == 2.5


@pytest.mark.parametrize(
    ("condition", "started"),
    [
        ('if="true"', True),
        ('if="0"', False),
        ('unless="False"', True),
        ('unless="1"', False),
        ('if="$(var a)"', True),
    ],
)
def test_conditions_decide_whether_something_is_started(tmp_path, condition, started):
    body = f'<arg name="a" default="True"/><executable cmd="echo a"/><executable cmd="ls" {condition}/>'
    assert len(load(write(tmp_path, body), {})) == 1 + started


def test_a_group_forgets_what_was_set_in_it(tmp_path):
    body = """<let name="a" value="outside"/>
    <group><let name="a" value="inside"/><executable cmd="echo $(var a)"/></group>
    <executable name="after" cmd="echo $(var a)"/>"""
    first, second = load(write(tmp_path, body), {})
    assert first.command[1] == "inside"
    assert second.command[1] == "outside"


def test_an_included_file_sees_given_values_and_those_of_the_command_line(tmp_path):
    inner = '<arg name="a"/><arg name="b" default="own"/><executable cmd="echo $(var a) $(var b)"/>'
    write(tmp_path, inner, "inner.launch.xml")
    path = write(tmp_path, f'<include file="{tmp_path}/inner.launch.xml"><arg name="a" value="given"/></include>')
    assert load(path, {})[0].command == ("echo", "given", "own")
    assert load(path, {"b": "typed"})[0].command == ("echo", "given", "typed")
    assert [argument.name for argument in declared_arguments(path)] == ["b"]


def test_what_an_included_file_must_be_given_is_given_in_the_include_as_ros2_launch_wants_it(tmp_path):
    write(tmp_path, '<arg name="a"/><executable cmd="echo $(var a)"/>', "inner.launch.xml")
    path = write(tmp_path, f'<arg name="a"/><include file="{tmp_path}/inner.launch.xml"/>')
    with pytest.raises(LaunchFileError, match=r"argument 'a' of inner\.launch\.xml must be given inside"):
        load(path, {"a": "x"})


def test_an_argument_keeps_its_description_default_and_choices(tmp_path):
    body = '<arg name="a" default="x" description="what\n  it is"><choice value="x"/><choice value="y"/></arg>'
    (argument,) = declared_arguments(write(tmp_path, body))
    assert (argument.name, argument.default, argument.description) == ("a", "x", "what it is")
    assert argument.choices == ("x", "y")


def test_a_default_may_be_made_from_an_argument_that_must_be_given(tmp_path):
    path = write(tmp_path, '<arg name="a"/><arg name="b" default="$(var a)/x"/><executable cmd="echo $(var b)"/>')
    assert [argument.default for argument in declared_arguments(path)] == [None, "$(var a)/x"]
    assert load(path, {"a": "1"})[0].command == ("echo", "1/x")


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        ('<arg name="a"/><executable cmd="x"/>', 2, "argument 'a' must be given"),
        ('\n<executable cmd="echo $(var nobody)"/>', 3, r"\$\(var nobody\) is not set"),
        ('<executable cmd="echo $(env DUAL_NAV_UNSET)"/>', 2, "no such environment variable"),
        ('<executable cmd="echo $(eval 1 + 1)"/>', 2, r"\$\(eval\) is not supported"),
        ('<executable cmd="echo $(var a"/>', 2, "not closed"),
        ('<executable cmd="echo $(find-pkg-share no_such_package)"/>', 2, "no_such_package"),
        ('<executable cmd="x" shell="true"/>', 2, "attribute 'shell' is not supported"),
        ('<timer period="1"/>', 2, "<timer> is not supported inside <launch>"),
        ('<node pkg="dual_nav_bringup"/>', 2, "needs the attribute 'exec'"),
        ('<node pkg="dual_nav_bringup" exec="nothing"/>', 2, "no such executable .*run_launch"),
        ('<node pkg="no_such_package" exec="x"/>', 2, "no_such_package"),
        ('<executable cmd="x" if="maybe"/>', 2, "if='maybe' must be"),
        ('<executable cmd="x" if="1" unless="1"/>', 2, "only one of"),
        ('<executable cmd="x" respawn_delay="-1"/>', 2, "respawn_delay='-1'"),
        ('<executable cmd="x"/><executable cmd="x"/>', 2, "second process with the name 'x'"),
        ('<node pkg="dual_nav_bringup" exec="run_launch"><param from="absent.yaml"/></node>', 2, "no parameter file"),
        ('<node pkg="dual_nav_bringup" exec="run_launch">\n<param name="x"/></node>', 3, "needs .* 'value'"),
        ('<arg name="a" default="z"><choice value="x"/></arg>', 2, "must be one of x"),
        ('<include file="absent.launch.xml"/>', 0, "absent.launch.xml: No such file"),
        ("\n<executable cmd='x'>", 4, "mismatched tag"),
        ("words", 2, "text 'words'"),
        ("<let name='a' value='1'/>", 0, "nothing to start"),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_line(tmp_path, monkeypatch, body, line, said):
    monkeypatch.delenv("DUAL_NAV_UNSET", raising=False)
    path = write(tmp_path, body)
    with pytest.raises(LaunchFileError, match=said) as raised:
        load(path, {})
    if line:
        assert str(raised.value).startswith(f"{path}:{line}: ")


def test_an_argument_nobody_declared_is_refused_with_those_that_exist(tmp_path):
    path = write(tmp_path, '<arg name="model" default=""/><executable cmd="x"/>')
    with pytest.raises(LaunchFileError, match=r"no argument 'modle'.*model"):
        load(path, {"modle": "x"})
