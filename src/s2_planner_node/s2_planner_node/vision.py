"""Qwen2.5-VL's vision tower with windows computed as windows.

Uses the weights of transformers' vision module and its sub-modules, but not its ``forward``: that one loops over
windows one by one (or, in older versions, masks full attention). Here all windows of equal size, of all images of
equal size, are one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

Grid = tuple[int, int, int]  # (1, rows, columns) in patches


@dataclass(frozen=True)
class _WindowPlan:
    """Order of the patches of one image in which every window is contiguous and equal windows are neighbours."""

    cell_order: torch.Tensor  # (cells,) merge cell at each place
    cell_place: torch.Tensor  # (cells,) its inverse
    row_column: torch.Tensor  # (patches, 2) of the patches in window order
    runs: tuple[tuple[int, int, int], ...]  # (first patch, number of windows, patches per window)


@lru_cache(maxsize=32)
def _window_plan(rows: int, columns: int, merge: int, window_cells: int) -> _WindowPlan:
    cells = torch.arange((rows // merge) * (columns // merge)).view(rows // merge, columns // merge)
    windows = [window.reshape(-1) for band in cells.split(window_cells, 0) for window in band.split(window_cells, 1)]
    windows.sort(key=len, reverse=True)
    runs, start = [], 0
    for length in sorted({len(window) for window in windows}, reverse=True):
        count = sum(len(window) == length for window in windows)
        patches = length * merge * merge
        runs.append((start, count, patches))
        start += count * patches
    cell_order = torch.cat(windows)
    row_column = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    row_column = row_column.view(rows // merge, merge, columns // merge, merge, 2).transpose(1, 2)
    row_column = row_column.reshape(-1, merge * merge, 2)[cell_order].reshape(-1, 2)
    return _WindowPlan(cell_order, torch.argsort(cell_order), row_column, tuple(runs))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (images, patches, heads, head_dim) in float32, as transformers does."""
    y = x.float()
    half = y.shape[-1] // 2
    turned = torch.cat((-y[..., half:], y[..., :half]), -1)
    return (y * cos + turned * sin).to(x.dtype)


def _rotary_angles(row_column: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin (patches, 1, head_dim): a quarter of the channels turns with the row, the next with the column."""
    frequencies = 10000.0 ** -(torch.arange(0, head_dim // 2, 2, dtype=torch.float32) / (head_dim // 2))
    angles = (row_column[:, :, None].float() * frequencies.to(row_column.device)).flatten(1)
    angles = torch.cat((angles, angles), -1)[:, None, :]
    return angles.cos(), angles.sin()


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Sequence[tuple[int, int, int]]) -> torch.Tensor:
    """Attention within each window; all of (images, patches, heads, head_dim)."""
    images, _, heads, head_dim = q.shape
    outputs = []
    for start, count, length in runs:
        part = slice(start, start + count * length)
        windows = [x[:, part].reshape(images * count, length, heads, head_dim).transpose(1, 2) for x in (q, k, v)]
        y = F.scaled_dot_product_attention(*windows)
        outputs.append(y.transpose(1, 2).reshape(images, count * length, heads * head_dim))
    return torch.cat(outputs, 1)


def _encode_equal(visual: torch.nn.Module, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Features (images, cells, out_hidden_size) of images (images, patches, values) with one common grid."""
    config = visual.config
    merge, heads = config.spatial_merge_size, config.num_heads
    plan = _window_plan(rows, columns, merge, config.window_size // merge // config.patch_size)
    device = patches.device
    images, length = patches.shape[:2]

    # The patch embedding is a convolution whose stride is its kernel: a matrix product.
    weight = visual.patch_embed.proj.weight
    hidden = F.linear(patches.to(weight.dtype), weight.flatten(1))
    width = hidden.shape[-1]
    hidden = hidden.view(images, -1, merge * merge, width)[:, plan.cell_order.to(device)].view(images, length, width)
    cos, sin = _rotary_angles(plan.row_column.to(device), width // heads)

    whole_image = ((0, 1, length),)
    full_attention = set(config.fullatt_block_indexes)
    for number, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(block.norm1(hidden)).view(images, length, 3, heads, width // heads)
        q, k, v = qkv.unbind(2)
        runs = whole_image if number in full_attention else plan.runs
        attended = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, runs)
        hidden = hidden + block.attn.proj(attended)
        hidden = hidden + block.mlp(block.norm2(hidden))
    features = visual.merger(hidden).view(images, length // merge**2, -1)
    return features[:, plan.cell_place.to(device)]


def encode_images(visual: torch.nn.Module, patches: torch.Tensor, grids: Sequence[Grid]) -> list[torch.Tensor]:
    """Features of each image, (rows * columns / merge², out_hidden_size) in reading order of its merge cells.

    ``patches`` (sum of rows * columns, values) as ``ImageProcessor`` makes them, on the module's device.
    Raises ``ValueError`` when patches and grids do not fit together.
    """
    merge = visual.config.spatial_merge_size
    values = visual.patch_embed.proj.weight[0].numel()
    for grid in grids:
        if grid[0] != 1 or grid[1] % merge or grid[2] % merge or min(grid) < 1:
            raise ValueError(f"patch grid is {grid}, expected (1, rows, columns) in multiples of {merge}")
    expected = (sum(rows * columns for _, rows, columns in grids), values)
    if tuple(patches.shape) != expected:
        raise ValueError(f"patches have shape {tuple(patches.shape)}, expected {expected} for grids {list(grids)}")

    parts = patches.split([rows * columns for _, rows, columns in grids])
    features: dict[int, torch.Tensor] = {}
    for grid in dict.fromkeys(grids):
        members = [i for i, other in enumerate(grids) if other == grid]
        encoded = _encode_equal(visual, torch.stack([parts[i] for i in members]), grid[1], grid[2])
        features.update(zip(members, encoded, strict=True))
    return [features[i] for i in range(len(grids))]
