"""Pictures of a replay: one per plan (camera image, pixel goal, answer) and the paths seen from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage

from dual_nav_bringup.observer import SeenPath, SeenPlan
from dual_nav_bringup.player import message_class
from dual_nav_util.images import rgb_from_compressed, rgb_from_image
from dual_nav_util.recording import Recording, Topic, read_stamp
from nav_msgs_ext.msg import S2Plan

# Has the arrows of the action vocabulary, and comes with matplotlib.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
ACTIONS = {0: "STOP", 1: "↑", 2: "←", 3: "→", 5: "↓"}
GOAL = (255, 60, 60)


def draw_plan(rgb: np.ndarray, plan: S2Plan, seconds: float, latency: float | None) -> Picture.Image:
    """The image a plan was made from with its pixel goal, its answer and when it came.

    `rgb` is uint8 (H, W, 3); `seconds` the time of the frame since the start; `latency` camera to plan in seconds.
    """
    height, width = rgb.shape[:2]
    unit = max(12, height // 28)
    band = unit * 3
    picture = Picture.new("RGB", (width, height + band), (24, 24, 28))
    picture.paste(Picture.fromarray(rgb), (0, 0))
    draw = ImageDraw.Draw(picture, "RGBA")

    has_goal = plan.pixel_goal_column >= 0 and plan.image_width and plan.image_height
    if has_goal:
        x = (plan.pixel_goal_column + 0.5) * width / plan.image_width
        y = (plan.pixel_goal_row + 0.5) * height / plan.image_height
        for radius, colour, line in ((unit, (255, 255, 255), 5), (unit, GOAL, 3), (unit // 6, GOAL, 3)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=line)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            ends = (x + dx * unit, y + dy * unit, x + dx * unit * 1.8, y + dy * unit * 1.8)
            draw.line(ends, fill=(255, 255, 255), width=5)
            draw.line(ends, fill=GOAL, width=3)
    goal = f"pixel goal {plan.pixel_goal_column}, {plan.pixel_goal_row}" if has_goal else "no pixel goal"
    if has_goal and plan.look_down:
        goal += f" of {plan.image_width}×{plan.image_height} looking down"
    actions = " ".join(ACTIONS.get(action, str(action)) for action in plan.actions)
    decided = {S2Plan.KIND_ACTIONS: f"actions {actions}", S2Plan.KIND_TRAJ_LATENTS: f"{goal}, with latents"}
    timing = f"{seconds:.2f} s" + ("" if latency is None else f", plan after {latency * 1e3:.0f} ms")
    texts = (f"“{plan.answer}”", f"plan {plan.plan_number}   {decided.get(plan.kind, goal)}   {timing}")
    for text, row, size, colour in zip(texts, (0.3, 1.7), (1.0, 0.8), ((255,) * 3, (200, 200, 210)), strict=True):
        font = ImageFont.truetype(str(FONT), int(unit * size))
        draw.text((unit / 2, height + unit * row), _fitting(text, font, width - unit), font=font, fill=colour)
    return picture


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, cut off so that it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def write_plan_pictures(
    folder: Path,
    recording: Recording,
    rgb: Topic,
    plans: Sequence[SeenPlan],
    loop_ns: int,
    sent: Mapping[int, float],
) -> int:
    """A picture per plan, in the order in which they came; reads the recording once more. Returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    first_stamp = min(sent, default=0)
    wanted: dict[int, list[tuple[int, SeenPlan]]] = {}
    for number, plan in enumerate(plans):
        recorded = plan.stamp - (plan.stamp - first_stamp) // loop_ns * loop_ns
        wanted.setdefault(recorded, []).append((number, plan))
    written = 0
    for message in recording.messages([rgb.name]):
        here = wanted.pop(read_stamp(message.data), ())
        if here:
            kind = message_class(message.type)
            convert = rgb_from_compressed if kind is CompressedImage else rgb_from_image
            image = convert(deserialize_message(message.data, kind), rgb.name)
        for number, plan in here:
            latency = plan.arrival - sent[plan.stamp] if plan.stamp in sent else None
            picture = draw_plan(image, plan.message, (plan.stamp - first_stamp) * 1e-9, latency)
            picture.save(folder / f"plan_{number:04d}.jpg", quality=90)
            written += 1
        if not wanted:
            break
    return written


def write_top_down(
    file: Path, paths: Sequence[SeenPath], odometry: Sequence[tuple[float, float]], title: str
) -> None:
    """All paths in the odometry frame, coloured by time, over the way the camera went; axes in metres, x forward."""
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["viridis"]
    if odometry:
        way = np.array(odometry)
        axes.plot(way[:, 0], way[:, 1], color="black", linewidth=2.2, label="odometry", zorder=3)
        axes.plot(*way[0], "o", color="black", markersize=9, markerfacecolor="white", label="start", zorder=4)
    if paths:
        begin, end = paths[0].stamp, max(paths[-1].stamp, paths[0].stamp + 1)
        for path in paths:
            colour = colours((path.stamp - begin) / (end - begin))
            axes.plot(path.points[:, 0], path.points[:, 1], color=colour, linewidth=0.9, alpha=0.7, zorder=2)
            axes.plot(*path.points[-1], ".", color=colour, markersize=4, zorder=2)
        mapping = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, (end - begin) * 1e-9), colours)
        figure.colorbar(mapping, ax=axes, label="time of the camera frame [s]", shrink=0.8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("x [m]")
    axes.set_ylabel("y [m]")
    axes.set_title(title)
    if odometry:
        axes.legend(loc="best", framealpha=0.9)
    figure.savefig(file, dpi=130)
