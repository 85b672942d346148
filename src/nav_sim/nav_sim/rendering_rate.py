"""How many RGB-D frames per second this machine renders: `python -m nav_sim.rendering_rate`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from .camera import Camera
from .draw import Draw
from .episodes import draw_start
from .gl import choose
from .scene import LOOKS
from .simulator import Config, Simulator
from .worlds import make_flat

SIZES = ((640, 480), (424, 240), (320, 240), (224, 224))
FLATS = (3, 5, 9)
POSES = 15  # in each flat; the first is not timed


def frames_per_second(look: str, size: tuple[int, int], flats: tuple[int, ...] = FLATS, poses: int = POSES) -> float:
    """Level RGB + metric depth from poses all over some flats, one process; frames per second."""
    seconds, frames = 0.0, 0
    for seed in flats:
        flat = make_flat(seed)
        with Simulator(flat, Config(look=look, camera=Camera(*size))) as simulator:
            draw = Draw(seed, 19)
            for number in range(poses):
                start = draw_start(draw, flat)
                simulator.reset(start.x, start.y, start.yaw)
                began = time.perf_counter()
                simulator.render("level")
                if number:
                    seconds += time.perf_counter() - began
                    frames += 1
    return frames / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look", choices=LOOKS, help="default: both")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for look in [arguments.look] if arguments.look else LOOKS:
        figures[look] = {}
        for width, height in SIZES:
            rate = frames_per_second(look, (width, height))
            figures[look][f"{width}x{height}"] = round(rate, 1)
            print(f"{look:10s} {width}x{height}: {rate:6.1f} frames/s")
    print(json.dumps({"backend": choose(), "frames_per_second": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
