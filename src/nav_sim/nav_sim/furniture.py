"""Furniture: the catalogue of kinds and real sizes, and the textured models behind it.

The catalogue (data/catalogue.json) is part of this package: flats are planned from it alone, so that a seed gives the
same flat with or without the models. The models come from Debian's `sweethome3d-furniture` (CC0 and CC-BY 3.0, see
`attribution`): catalogue archives (.sh3f, zip) of OBJ files with their textures, fetched by scripts/fetch_debian.py.

Frame of an item: origin on the floor below its middle, x to its right as seen from behind, y to its back, z up: what
leans against a wall has the wall at +y, and a chair faces -y. Metres.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import zipfile
from collections import defaultdict
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .paths import debian_folder

TEXTURE_SIDE = 256  # pixels; larger textures are scaled down to this
DEFAULT_COLOUR = (0.75, 0.75, 0.75)
MAX_TRIANGLES = 5000  # per model


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue. Sizes in centimetres: `width` along x, `depth` along y, `height` along z.

    outline: corners of what the robot can run into, in shares of width and depth, where that is not all of the box
    (scripts/outline_furniture.py).
    """

    key: str
    kind: str
    archive: str
    model: str
    width: int
    depth: int
    height: int
    paint: tuple[str, ...]  # materials that take the item's colour; empty: the model keeps its own look
    colour: str  # colour word of an item that cannot be painted; empty for paintable ones
    outline: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Part:
    """Triangles of one material: vertices, normals (N, 3), texcoords (N, 2) float32, faces (M, 3) int32."""

    material: str
    vertices: np.ndarray
    normals: np.ndarray
    texcoords: np.ndarray
    faces: np.ndarray
    colour: tuple[float, float, float]
    texture: np.ndarray | None  # (H, W, 3) uint8


@functools.cache
def catalogue() -> tuple[Entry, ...]:
    """All entries, in the order of the file (which the planning of flats depends on)."""
    text = resources.files(__package__).joinpath("data/catalogue.json").read_text()
    return tuple(
        Entry(**item | {"paint": tuple(item["paint"]), "outline": tuple(map(tuple, item.get("outline", ())))})
        for item in json.loads(text)
    )


@functools.cache
def entry(key: str) -> Entry:
    """The entry with this key; KeyError when there is none."""
    found = [item for item in catalogue() if item.key == key]
    if not found:
        raise KeyError(f"the furniture catalogue has no model {key!r}")
    return found[0]


def archives_folder() -> Path | None:
    """Folder with the .sh3f archives, or None when they have not been fetched."""
    relative = Path("usr/share/sweethome3d/furniture")
    for folder in (debian_folder("sweethome3d-furniture") / relative, Path("/") / relative):
        if folder.is_dir():
            return folder
    return None


def attribution() -> list[Path]:
    """The files that say who made the models and under which licence (empty when they have not been fetched)."""
    folder = archives_folder()
    if folder is None:
        return []
    return sorted((folder.parents[2] / "share" / "doc" / "sweethome3d-furniture").glob("copyright"))


# ------------------------------------------------------------------------------------------------ reading models


@functools.cache
def _archive(name: str) -> zipfile.ZipFile:
    folder = archives_folder()
    if folder is None:
        raise FileNotFoundError("the furniture models are not there: run 'python3 scripts/fetch_debian.py'")
    return zipfile.ZipFile(folder / f"{name}.sh3f")


@functools.cache
def _properties(archive: str) -> dict[str, dict[str, str]]:
    """Catalogue properties of an archive by model path."""
    text = _archive(archive).read("PluginFurnitureCatalog.properties").decode("latin-1")
    numbered: dict[str, dict[str, str]] = defaultdict(dict)
    for line in text.splitlines():
        name, _, value = line.partition("=")
        field, mark, number = name.strip().partition("#")
        if mark:
            numbered[number][field] = value.strip()
    return {item["model"].lstrip("/"): item for item in numbered.values() if "model" in item}


def _parse_materials(text: str) -> dict[str, dict[str, str]]:
    materials: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(None, 1)
        if len(words) < 2:
            continue
        if words[0] == "newmtl":
            current = materials.setdefault(words[1].strip(), {})
        elif words[0] in ("Kd", "map_Kd", "d"):
            current[words[0]] = words[1].strip()
    return materials


def _read_texture(archive: zipfile.ZipFile, folder: PurePosixPath, value: str) -> np.ndarray | None:
    """The image a material names, scaled down; None when the archive lacks it (one model names a missing one)."""
    name = value.split()[-1] if value.startswith("-") else value
    path = os.path.normpath(str(folder / name.replace("\\", "/")))
    try:
        data = archive.read(path)
    except KeyError:
        return None
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
    flat.alpha_composite(image)
    side = TEXTURE_SIDE
    size = tuple(max(8, 2 ** round(math.log2(min(side, length)))) for length in image.size)
    return np.asarray(flat.convert("RGB").resize(size, Image.Resampling.LANCZOS))


Corners = dict[str, list[tuple[int, int, int]]]


def _parse_obj(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Corners, list[str]]:
    """Positions, texture coordinates and normals, corners of the triangles as (v, vt, vn) by material, libraries."""
    positions: list[tuple[float, float, float]] = []
    texcoords: list[tuple[float, float]] = []
    normals: list[tuple[float, float, float]] = []
    corners: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    libraries: list[str] = []
    material = ""
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words:
            continue
        tag = words[0]
        if tag == "v":
            positions.append((float(words[1]), float(words[2]), float(words[3])))
        elif tag == "vt":
            texcoords.append((float(words[1]), float(words[2])))
        elif tag == "vn":
            normals.append((float(words[1]), float(words[2]), float(words[3])))
        elif tag == "usemtl":
            material = " ".join(words[1:])
        elif tag == "mtllib":
            libraries.append(" ".join(words[1:]))
        elif tag == "f":
            polygon = []
            for word in words[1:]:
                fields = word.split("/")
                v = int(fields[0])
                vt = int(fields[1]) if len(fields) > 1 and fields[1] else 0
                vn = int(fields[2]) if len(fields) > 2 and fields[2] else 0
                polygon.append((
                    v - 1 if v > 0 else len(positions) + v,
                    vt - 1 if vt > 0 else (len(texcoords) + vt if vt else -1),
                    vn - 1 if vn > 0 else (len(normals) + vn if vn else -1),
                ))  # fmt: skip
            for second, third in pairwise(polygon[1:]):
                corners[material] += (polygon[0], second, third)
    as_array = lambda rows, width: np.asarray(rows, np.float64).reshape(-1, width)  # noqa: E731
    return as_array(positions, 3), as_array(texcoords, 2), as_array(normals, 3), corners, libraries


def _read_parts(item: Entry) -> tuple[Part, ...]:
    """Parse the model of `item` and bring it to the item frame and the catalogue's size."""
    archive = _archive(item.archive)
    path = PurePosixPath(item.model)
    decode = lambda name: archive.read(name).decode("latin-1")  # noqa: E731
    positions, texcoords, normals, corners, libraries = _parse_obj(decode(item.model))
    materials: dict[str, dict[str, str]] = {}
    for library in libraries:
        name = os.path.normpath(str(path.parent / library))
        if name in archive.namelist():
            materials |= _parse_materials(decode(name))

    rotation = np.eye(3)
    if "modelRotation" in _properties(item.archive)[item.model]:
        numbers = _properties(item.archive)[item.model]["modelRotation"].split()
        rotation = np.asarray([float(number) for number in numbers]).reshape(3, 3)
    to_item = np.asarray([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float) @ rotation  # y up, facing +z -> z up, facing -y
    positions, normals = positions @ to_item.T, normals @ to_item.T
    used = positions[sorted({corner[0] for part in corners.values() for corner in part})]
    low, high = used.min(axis=0), used.max(axis=0)
    scale = np.asarray([item.width, item.depth, item.height]) / 100.0 / np.maximum(high - low, 1e-9)
    positions = (positions - [*((low + high) / 2)[:2], low[2]]) * scale
    normals = normals / scale

    parts = []
    for material, triples in corners.items():
        unique, faces = np.unique(np.asarray(triples), axis=0, return_inverse=True)
        faces = faces.reshape(-1, 3)
        vertices = positions[unique[:, 0]]
        sides = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
        faces = faces[np.linalg.norm(sides, axis=1) > 1e-9]
        if not len(faces):
            continue
        smooth = np.zeros_like(vertices)
        np.add.at(smooth, faces.ravel(), np.repeat(sides[np.linalg.norm(sides, axis=1) > 1e-9], 3, axis=0))
        given = normals[unique[:, 2]] if len(normals) else smooth
        chosen = np.where((unique[:, 2:] >= 0) & (np.abs(given).sum(1, keepdims=True) > 1e-9), given, smooth)
        chosen = _unit(chosen, np.broadcast_to((0.0, 0.0, 1.0), chosen.shape))
        coordinates = texcoords[unique[:, 1]] if len(texcoords) else np.zeros((len(unique), 2))
        coordinates = np.where(unique[:, 1:2] >= 0, coordinates, 0.0)
        look = materials.get(material, {})
        texture = _read_texture(archive, path.parent, look["map_Kd"]) if "map_Kd" in look else None
        diffuse = look.get("Kd", "").split()
        colour = tuple(float(value) for value in diffuse[:3]) if len(diffuse) >= 3 else DEFAULT_COLOUR
        parts.append(
            Part(
                material,
                vertices.astype(np.float32),
                chosen.astype(np.float32),
                coordinates.astype(np.float32),
                faces.astype(np.int32),
                (1.0, 1.0, 1.0) if texture is not None else colour,
                texture,
            )
        )
    return tuple(parts)


def _unit(vectors: np.ndarray, instead: np.ndarray) -> np.ndarray:
    """Vectors (N, 3) at length 1; those of no length are replaced by the unit vectors `instead`."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), instead)


def _simplified(part: Part, cell: float) -> Part:
    """Merge vertices that fall into the same cell (metres), face the same way and are near on the texture."""
    facing = np.argmax(np.abs(part.normals), axis=1) * 2 + (part.normals.max(1) < -part.normals.min(1))
    key = np.column_stack([
        np.floor(part.vertices / cell),
        facing,
        np.floor(part.texcoords * 4) if part.texture is not None else np.zeros_like(part.texcoords),
    ]).astype(np.int64)  # fmt: skip
    _, first, inverse, counts = np.unique(key, axis=0, return_index=True, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(first), values.shape[1]))
        np.add.at(total, inverse, values)
        return (total / counts[:, None]).astype(np.float32)

    faces = inverse[part.faces]
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = np.unique(faces[distinct], axis=0).astype(np.int32)
    normals = _unit(mean(part.normals), part.normals[first]).astype(np.float32)
    return replace(part, vertices=mean(part.vertices), normals=normals, texcoords=part.texcoords[first], faces=faces)


def _with_budget(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same model with at most MAX_TRIANGLES (or as few as cells of 4 cm leave)."""
    reduced = parts
    for cell in (0.004, 0.006, 0.009, 0.013, 0.02, 0.03, 0.04):
        if sum(len(part.faces) for part in reduced) <= MAX_TRIANGLES:
            break
        reduced = tuple(_simplified(part, cell) for part in parts)
    return tuple(part for part in reduced if len(part.faces))


@functools.lru_cache(maxsize=128)
def model_parts(key: str) -> tuple[Part, ...]:
    """Meshes of a catalogue entry in the item frame, by material."""
    return _with_budget(_read_parts(entry(key)))


def painted(texture: np.ndarray) -> np.ndarray:
    """The light and dark of a texture without its colour, bright enough to be multiplied with a paint."""
    grey = texture.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)
    relative = np.clip(grey / max(float(grey.mean()), 1.0), 0.55, 1.25) * 0.8
    return np.repeat((relative * 255).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
