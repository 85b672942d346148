"""An S2 step done the plain way, as the yardstick of speed and the reference of exactness.

It follows the public InternNav implementation's order of work on transformers 4.51: every turn sends all images
through the image processor and the vision tower and the whole conversation through the language model; the latents
do it once more for the answered conversation. In the vision tower windowed blocks are full attention over all patches
of all images with a mask. Only decoding has a key/value cache, within one turn. It uses the weights and the language
model of a transformers network, its own vision loop, and nothing of ``s2_planner_node``'s model, decoder or vision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from s2_planner_node.image_processor import ImageProcessor, resize_rgb
from s2_planner_node.prompt import PromptProtocol, first_turn, look_down_turn


def _segments_mask(lengths: Sequence[int]) -> Tensor:
    """(n, n), true where query and key are of the same segment."""
    mask = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool)
    start = 0
    for length in lengths:
        mask[start : start + length, start : start + length] = True
        start += length
    return mask


def _window_order(rows: int, columns: int, side: int) -> tuple[list[int], list[int]]:
    """(cells of an image window by window, number of cells of each window)."""
    order, lengths = [], []
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            cells = [
                row * columns + column
                for row in range(top, min(top + side, rows))
                for column in range(left, min(left + side, columns))
            ]
            order += cells
            lengths.append(len(cells))
    return order, lengths


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def encode(visual: nn.Module, patches: Tensor, grids: Sequence[tuple[int, int, int]]) -> Tensor:
    """Features of all images in a row, windowed blocks as full attention with a mask."""
    config = visual.config
    merge = config.spatial_merge_size
    unit, head_dim = merge**2, config.hidden_size // config.num_heads
    order: list[int] = []
    windows: list[int] = []
    positions = []
    for _, rows, columns in grids:
        cells, lengths = _window_order(
            rows // merge, columns // merge, config.window_size // merge // config.patch_size
        )
        order += [len(order) + cell for cell in cells]
        windows += [length * unit for length in lengths]
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        for axis in (row, column):
            cut = axis.reshape(rows // merge, merge, columns // merge, merge).permute(0, 2, 1, 3).flatten()
            positions.append(cut)
    row, column = torch.cat(positions[0::2]), torch.cat(positions[1::2])
    rate = 1.0 / (10000.0 ** (torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2)))
    angle = torch.cat((torch.outer(row.float(), rate), torch.outer(column.float(), rate)), dim=-1)
    index = torch.tensor(order)
    angle = angle.reshape(len(index), unit, -1)[index].flatten(0, 1)
    angle = torch.cat((angle, angle), dim=-1)
    cos, sin = angle.cos()[:, None].to(patches.device), angle.sin()[:, None].to(patches.device)

    window_mask = _segments_mask(windows).to(patches.device)[None]
    image_mask = _segments_mask([rows * columns for _, rows, columns in grids]).to(patches.device)[None]
    hidden = visual.patch_embed(patches)
    count = hidden.shape[0]
    hidden = hidden.reshape(count // unit, unit, -1)[index].reshape(count, -1)
    for number, block in enumerate(visual.blocks):
        mask = image_mask if number in config.fullatt_block_indexes else window_mask
        q, k, v = block.attn.qkv(block.norm1(hidden)).reshape(count, 3, config.num_heads, -1).unbind(1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        hidden = hidden + block.attn.proj(attended[0].transpose(0, 1).reshape(count, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden)[torch.argsort(index)]


class PlainS2:
    """One step from images and instruction to answer and latents, nothing kept from call to call."""

    def __init__(
        self,
        network: Qwen2_5_VLForConditionalGeneration,
        latent_queries: Tensor,
        protocol: PromptProtocol,
        processor: ImageProcessor,
        end_token_id: int,
    ) -> None:
        self._network = network
        self._queries = latent_queries
        self._protocol = protocol
        self._processor = processor
        self._end = end_token_id

    @torch.inference_mode()
    def step(
        self,
        instruction: str,
        history: Sequence[np.ndarray],
        current: np.ndarray,
        look_down: np.ndarray,
        side: int = 384,
    ) -> tuple[str, np.ndarray]:
        """(answer, traj_latents (1, n_query, hidden)) of a step with a look-down turn."""
        images = [resize_rgb(rgb, side, side) for rgb in (*history, current)]
        conversation = first_turn(self._protocol.template, instruction, len(history))
        text, ids = self._generate(conversation, images)
        if text == "↓":
            images.append(look_down)
            conversation = look_down_turn(self._protocol.template, conversation, text)
            text, ids = self._generate(conversation, images)
        return text, self._latents(ids, images)

    def _embed(self, ids: Tensor, images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, int]:
        """(input embeddings, 3-axis positions, what is added to a place to get its position) of a sequence."""
        model = self._network.model
        patches, grids = self._processor(images)
        features = encode(model.visual, torch.from_numpy(patches).to(ids.device), grids)
        embeddings = model.language_model.embed_tokens(ids)
        is_image = ids == self._network.config.image_token_id
        embeddings[is_image] = features.to(embeddings.dtype)
        positions, delta = model.get_rope_index(
            ids, mm_token_type_ids=is_image.int(), image_grid_thw=torch.tensor(grids)
        )
        return embeddings, positions, int(delta)

    def _generate(self, conversation: list, images: Sequence[np.ndarray]) -> tuple[str, Tensor]:
        ids: list[int] = []
        remaining = iter(images)
        for token in self._protocol.tokenize(conversation):
            if token == self._network.config.image_token_id:
                _, rows, columns = self._processor.grid(*next(remaining).shape[:2])
                ids += [token] * (rows * columns // self._processor.merge_size**2)
            else:
                ids.append(token)
        sequence = torch.tensor([ids], device=self._queries.device)
        embeddings, positions, delta = self._embed(sequence, images)
        cache, answer = DynamicCache(), []
        while len(answer) < 128:
            hidden = self._network.model.language_model(
                inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
            token = self._network.lm_head(hidden[:, -1:]).argmax(-1)
            answer.append(int(token))
            if answer[-1] == self._end:
                break
            place = sequence.shape[1] + len(answer) - 1
            positions = torch.full((3, 1, 1), place + delta, device=token.device)
            embeddings = self._network.model.language_model.embed_tokens(token)
        return self._protocol.decode(answer), torch.cat([sequence, torch.tensor([answer]).to(sequence)], 1)

    def _latents(self, ids: Tensor, images: Sequence[np.ndarray]) -> np.ndarray:
        embeddings, positions, _ = self._embed(ids, images)
        queries = self._queries.shape[1]
        behind = positions.max() + 1 + torch.arange(queries, device=ids.device).expand(3, 1, -1)
        hidden = self._network.model.language_model(
            inputs_embeds=torch.cat([embeddings, self._queries], 1),
            position_ids=torch.cat([positions, behind], -1),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, -queries:].float().cpu().numpy()
