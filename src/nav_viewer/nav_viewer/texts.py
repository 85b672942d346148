"""What the page says in words, as HTML. Plain Python; whatever comes from a topic is escaped."""

from __future__ import annotations

from html import escape

from nav_msgs_ext.msg import ControllerState, S2Plan

from .colours import BAD, BUSY, DRIVEN, GOAL, GOOD, PATH, RESTING, WARNING, css

STATES = {
    ControllerState.IDLE: ("idle", RESTING),
    ControllerState.FOLLOWING: ("following", GOOD),
    ControllerState.TURNING: ("turning", GOOD),
    ControllerState.ARRIVED: ("arrived", BUSY),
    ControllerState.BLOCKED: ("blocked", WARNING),
    ControllerState.STALE_PLAN: ("stale plan", BAD),
    ControllerState.NO_SENSORS: ("no sensors", BAD),
    ControllerState.FAULT: ("fault", BAD),
}
_ACTIONS = {
    S2Plan.ACTION_STOP: "stop",
    S2Plan.ACTION_FORWARD: "forward",
    S2Plan.ACTION_TURN_LEFT: "turn left",
    S2Plan.ACTION_TURN_RIGHT: "turn right",
    S2Plan.ACTION_LOOK_DOWN: "look down",
}
_LONGEST_ANSWER = 160
_MUTED = "opacity:.62"
_BOX = "padding:0 12px 10px"


def describe_plan(message: S2Plan) -> str:
    """What S2 decided: "turn left 3×, forward" or "pixel goal 312, 240 (look-down image)"."""
    if message.kind != S2Plan.KIND_ACTIONS:
        camera = " (look-down image)" if message.look_down else ""
        return f"pixel goal {message.pixel_goal_column}, {message.pixel_goal_row}{camera}"
    runs: list[list] = []
    for action in message.actions:
        name = _ACTIONS.get(action, f"action {action}")
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    return ", ".join(name if count == 1 else f"{name} {count}×" for name, count in runs) or "nothing"


def mission_html(instruction: str | None, state: ControllerState | None, plan: S2Plan | None) -> str:
    """Instruction, what S1 is doing, what S2 said."""
    said = f"“{escape(instruction)}”" if instruction else f'<span style="{_MUTED}">No instruction yet</span>'
    name, colour, message = "waiting for S1", RESTING, ""
    if state is not None:
        name, colour = STATES.get(state.state, (f"state {state.state}", BAD))
        message = state.message
    chip = (
        f'<span style="background:{colour};color:#fff;border-radius:999px;padding:2px 11px;font-weight:600;'
        f'font-size:13px">{escape(name)}</span>'
    )
    lines = [
        f'<div style="font-size:18px;line-height:1.3;font-weight:600;margin-bottom:9px">{said}</div>',
        f'<div style="font-size:13px">{chip} <span style="{_MUTED}">{escape(message)}</span></div>',
    ]
    if plan is not None:
        answer = plan.answer if len(plan.answer) <= _LONGEST_ANSWER else plan.answer[: _LONGEST_ANSWER - 1] + "…"
        lines.append(
            f'<div style="font-size:13px;margin-top:9px"><b>S2</b> {escape(describe_plan(plan))}'
            + (f' <span style="{_MUTED}">answer: <code>{escape(answer)}</code></span>' if answer else "")
            + "</div>"
        )
    return f'<div style="{_BOX}">{"".join(lines)}</div>'


def figures_html(
    s1_rate: float, s1_latency: float, s2_rate: float, s2_time: float, speed: float, driven: float
) -> str:
    """Rates [Hz] and times [s] of both systems, speed [m/s] and distance driven [m]."""
    cells = (
        ("S1", f"{s1_rate:.1f} Hz", f"{s1_latency * 1e3:.0f} ms"),
        ("S2", f"{s2_rate:.1f} Hz", f"{s2_time * 1e3:.0f} ms"),
        ("Robot", f"{speed:.2f} m/s", f"{driven:.1f} m"),
    )
    return (
        '<div style="display:flex;gap:8px;padding:2px 12px 10px">'
        + "".join(
            '<div style="flex:1;background:rgba(128,140,160,.14);border-radius:8px;padding:6px 9px">'
            f'<div style="font-size:11px;{_MUTED}">{name}</div>'
            f'<div style="font-size:15px;font-weight:600;white-space:nowrap">{first}</div>'
            f'<div style="font-size:12px;{_MUTED}">{second}</div></div>'
            for name, first, second in cells
        )
        + "</div>"
    )


def legend_html() -> str:
    """Which colour is what."""
    names = ((PATH, "path of S1"), (GOAL, "goal of S2"), (DRIVEN, "driven"))
    return (
        f'<div style="padding:0 12px 8px;font-size:12px;display:flex;gap:14px;{_MUTED}">'
        + "".join(
            f'<span><span style="color:{css(colour)};font-size:15px">●</span> {name}</span>' for colour, name in names
        )
        + "</div>"
    )
