#!/usr/bin/env python3
"""Write the outlines of the furniture catalogue: what of a model's box the robot can really run into.

`python scripts/outline_furniture.py` rewrites src/nav_sim/nav_sim/data/catalogue.json from the models, which
`make setup` has fetched.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull

from nav_sim import furniture

CATALOGUE = Path(__file__).parents[1] / "src/nav_sim/nav_sim/data/catalogue.json"
HEIGHT = 0.75  # metres up to which the robot can touch something
DIRECTIONS = np.deg2rad(np.arange(0, 360, 11.25))
MISSING = 0.05  # metres from a corner of the box to the model from which on the box will not do


def outline(entry: furniture.Entry) -> list[list[float]]:
    """Corners of a convex outline in shares of width and depth, counter-clockwise; empty where the box will do."""
    vertices = np.concatenate([part.vertices for part in furniture.model_parts(entry.key)])
    points = vertices[vertices[:, 2] < HEIGHT, :2]
    hull = ConvexHull(points)
    size = np.asarray([entry.width, entry.depth]) / 100
    corners = size / 2 * [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    if (corners @ hull.equations[:, :2].T + hull.equations[:, 2]).max() < MISSING:
        return []
    directions = np.column_stack([np.cos(DIRECTIONS), np.sin(DIRECTIONS)])
    extreme = points[hull.vertices][np.unique(np.argmax(points[hull.vertices] @ directions.T, axis=0))]
    shares = np.clip(extreme[ConvexHull(extreme).vertices] / size, -0.5, 0.5)
    return np.round(shares, 3).tolist()


def main() -> None:
    lines = []
    for line in CATALOGUE.read_text().splitlines():
        if line.strip() not in ("[", "]"):
            key = json.loads(line.rstrip(","))["key"]
            line = re.sub(r', "outline": \[\[.*?\]\]', "", line)
            found = outline(furniture.entry(key))
            if found:
                line = line.replace("}", f', "outline": {json.dumps(found)}}}')
        lines.append(line)
    CATALOGUE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
