"""Items drawn from boxes, cylinders and ellipsoids: the plain look, and what stands in for a missing model."""

from __future__ import annotations

from dataclasses import dataclass

from .worlds import Item

PAINTS = {
    "red": (0.76, 0.07, 0.06),
    "orange": (0.95, 0.42, 0.04),
    "yellow": (0.95, 0.80, 0.10),
    "green": (0.10, 0.50, 0.16),
    "blue": (0.08, 0.22, 0.72),
    "purple": (0.45, 0.12, 0.56),
    "white": (0.92, 0.92, 0.90),
    "black": (0.06, 0.06, 0.07),
    "brown": (0.55, 0.38, 0.22),
    "grey": (0.50, 0.50, 0.52),
}
_DARK = (0.20, 0.18, 0.17)
_LEAF = (0.16, 0.45, 0.16)
_POT = (0.70, 0.55, 0.42)


@dataclass(frozen=True)
class Shape:
    """One primitive of an item: type "box", "cylinder" or "ellipsoid"; centre and half sizes, metres, item frame."""

    type: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    colour: tuple[float, float, float]


# Primitives by kind, as shares of the item's width, depth and height: type, centre (x, y, z), size (x, y, z), colour
# (None: the item's paint). x and y run from -0.5 to 0.5, z from 0 to 1; the front is at y = -0.5.
_BOX, _CYLINDER, _ELLIPSOID = "box", "cylinder", "ellipsoid"
_LEGS = [(_BOX, (x, y, 0.24), (0.1, 0.1, 0.48), _DARK) for x in (-0.4, 0.4) for y in (-0.4, 0.4)]
_SEAT = [(_BOX, (0, 0, 0.5), (1, 1, 0.08), None), (_BOX, (0, 0.44, 0.76), (0.9, 0.12, 0.48), None)]
_SOFA = [
    (_BOX, (0, -0.08, 0.25), (1, 0.84, 0.5), None),
    (_BOX, (0, 0.38, 0.5), (1, 0.24, 1), None),
    (_BOX, (-0.45, -0.08, 0.36), (0.1, 0.84, 0.72), None),
    (_BOX, (0.45, -0.08, 0.36), (0.1, 0.84, 0.72), None),
]
_TABLE_LEGS = [(_BOX, (x, y, 0.46), (0.07, 0.09, 0.92), _DARK) for x in (-0.44, 0.44) for y in (-0.42, 0.42)]
_TABLE = [(_BOX, (0, 0, 0.96), (1, 1, 0.08), None), *_TABLE_LEGS]
_DRAWERS = [
    (_BOX, (0, 0.02, 0.5), (1, 0.96, 1), None),
    *[(_BOX, (0, -0.48, z), (0.4, 0.04, 0.02), _DARK) for z in (0.25, 0.5, 0.75)],
]
_SHELVES = [
    (_BOX, (0, 0.46, 0.5), (1, 0.08, 1), None),
    (_BOX, (-0.47, 0, 0.5), (0.06, 1, 1), None),
    (_BOX, (0.47, 0, 0.5), (0.06, 1, 1), None),
    *[(_BOX, (0, 0, z), (1, 1, 0.03), None) for z in (0.02, 0.25, 0.5, 0.75, 0.98)],
]
_WHITE = PAINTS["white"]
_SHAPES: dict[str, list[tuple[str, tuple[float, ...], tuple[float, ...], tuple[float, float, float] | None]]] = {
    "chair": [*_SEAT, *_LEGS],
    "armchair": _SOFA,
    "sofa": _SOFA,
    "table": _TABLE,
    "coffee table": _TABLE,
    "desk": [(_BOX, (0, 0, 0.96), (1, 1, 0.08), None), (_BOX, (0.35, 0, 0.46), (0.28, 0.9, 0.92), None),
             (_BOX, (-0.46, 0, 0.46), (0.06, 0.9, 0.92), _DARK)],
    "bed": [(_BOX, (0, 0, 0.18), (1, 1, 0.3), _DARK), (_BOX, (0, -0.05, 0.38), (0.94, 0.88, 0.16), None),
            (_BOX, (0, 0.48, 0.5), (1, 0.04, 1), _DARK), (_BOX, (0, 0.34, 0.49), (0.7, 0.16, 0.08), _WHITE)],
    "wardrobe": [(_BOX, (0, 0, 0.5), (1, 1, 1), None), (_BOX, (0, -0.5, 0.5), (0.01, 0.02, 0.96), _DARK)],
    "bookcase": _SHELVES,
    "dresser": _DRAWERS,
    "cabinet": _DRAWERS,
    "tv stand": _DRAWERS,
    "lamp": [(_CYLINDER, (0, 0, 0.02), (0.7, 0.7, 0.04), _DARK), (_CYLINDER, (0, 0, 0.4), (0.07, 0.07, 0.76), _DARK),
             (_CYLINDER, (0, 0, 0.86), (0.9, 0.9, 0.28), None)],
    "plant": [(_CYLINDER, (0, 0, 0.16), (0.5, 0.5, 0.32), _POT), (_ELLIPSOID, (0, 0, 0.65), (1, 1, 0.7), _LEAF)],
    "stool": [(_CYLINDER, (0, 0, 0.95), (0.9, 0.9, 0.1), None), (_CYLINDER, (0, 0, 0.47), (0.16, 0.16, 0.9), _DARK),
              (_CYLINDER, (0, 0, 0.03), (0.9, 0.9, 0.06), _DARK)],
    "ottoman": [(_CYLINDER, (0, 0, 0.5), (1, 1, 1), None)],
    "barrel": [(_CYLINDER, (0, 0, 0.5), (1, 1, 1), None), (_CYLINDER, (0, 0, 0.5), (1.02, 1.02, 0.08), _DARK)],
    "cone": [(_BOX, (0, 0, 0.03), (1, 1, 0.06), None), (_CYLINDER, (0, 0, 0.18), (0.66, 0.66, 0.26), None),
             (_CYLINDER, (0, 0, 0.42), (0.5, 0.5, 0.24), _WHITE), (_CYLINDER, (0, 0, 0.65), (0.34, 0.34, 0.24), None),
             (_CYLINDER, (0, 0, 0.88), (0.18, 0.18, 0.24), _WHITE)],
    "fridge": [(_BOX, (0, 0, 0.5), (1, 1, 1), None), (_BOX, (0.4, -0.5, 0.6), (0.05, 0.04, 0.4), _DARK)],
    "washing machine": [(_BOX, (0, 0, 0.5), (1, 1, 1), _WHITE), (_BOX, (0, -0.5, 0.5), (0.5, 0.03, 0.4), _DARK)],
    "toilet": [(_ELLIPSOID, (0, -0.15, 0.3), (0.9, 0.7, 0.55), _WHITE), (_BOX, (0, 0.38, 0.5), (1, 0.24, 1), _WHITE)],
    "bathtub": [(_BOX, (0, 0, 0.25), (1, 1, 0.5), _WHITE), (_BOX, (0, 0, 0.51), (0.85, 0.75, 0.02), (0.6, 0.8, 0.9))],
    "sink": [(_CYLINDER, (0, 0.2, 0.4), (0.3, 0.3, 0.8), _WHITE), (_BOX, (0, 0, 0.88), (1, 1, 0.24), _WHITE)],
    "piano": [(_BOX, (0, 0.2, 0.5), (1, 0.6, 1), None), (_BOX, (0, -0.25, 0.53), (1, 0.5, 0.1), None),
              (_BOX, (0, -0.3, 0.59), (0.9, 0.3, 0.02), _WHITE)],
    "fireplace": [(_BOX, (0, 0.1, 0.5), (1, 0.8, 1), _WHITE), (_BOX, (0, -0.3, 0.3), (0.6, 0.1, 0.55), _DARK)],
    "suitcase": [(_BOX, (0, 0, 0.47), (1, 1, 0.94), None), (_BOX, (0, 0, 0.97), (0.2, 0.2, 0.06), _DARK)],
    "exercise bike": [(_BOX, (0, 0, 0.04), (1, 1, 0.08), None), (_CYLINDER, (0, -0.2, 0.3), (0.3, 0.3, 0.5), _DARK),
                      (_BOX, (0, 0.2, 0.4), (0.15, 0.1, 0.7), None), (_BOX, (0, -0.4, 0.9), (0.7, 0.1, 0.1), _DARK)],
    "water cooler": [(_BOX, (0, 0, 0.38), (1, 1, 0.76), _WHITE), (_CYLINDER, (0, 0, 0.88), (0.8, 0.8, 0.24),
                                                                 (0.5, 0.7, 0.9))],
    "person": [(_BOX, (0, 0, 0.25), (0.6, 0.6, 0.5), (0.15, 0.2, 0.4)), (_BOX, (0, 0, 0.67), (0.9, 0.7, 0.36), None),
               (_ELLIPSOID, (0, 0, 0.92), (0.4, 0.6, 0.16), (0.85, 0.66, 0.54))],
}  # fmt: skip


def shapes_of(item: Item) -> list[Shape]:
    """Primitives of an item in its own frame; kinds without a drawing are a box of the item's size."""
    paint = PAINTS.get(item.colour, PAINTS["grey"])
    size = (item.width / 100, item.depth / 100, item.height / 100)
    drawing = _SHAPES.get(item.kind, [(_BOX, (0, 0, 0.5), (1, 1, 1), None)])
    return [
        Shape(
            type_,
            tuple(share * length for share, length in zip(centre, size, strict=True)),
            tuple(max(0.004, share * length / 2) for share, length in zip(extent, size, strict=True)),
            paint if colour is None else colour,
        )
        for type_, centre, extent, colour in drawing
    ]
