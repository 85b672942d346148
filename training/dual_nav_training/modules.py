"""The networks as they are trained: one module per mode, from a batch to its losses.

A module's ``forward`` takes a batch as tensors and returns ``losses``, one mean per term of the objective, and under
``parts`` what is only logged. Each term is a mean over its own kind of thing (answer tokens, frames, samples), whose
count the batch carries in ``weights``; the trainer combines the means of all micro-batches and processes by them.
Parameters keep the names of the releases, see ``released_name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dual_nav_training.losses import answer_loss, nextdit_loss
from dual_nav_training.navdp_losses import dual_navdp_loss, standalone_navdp_loss
from dual_nav_util.checkpoint import CheckpointError, CheckpointFolder, load_into
from s1_controller_node import checkpoint as s1
from s1_controller_node.navdp import NavDp
from s1_controller_node.nextdit_model import NextDiTModel
from s2_planner_node import checkpoint as s2

Mode = Literal["s2", "s1_navdp", "dual", "joint"]
MODES: tuple[Mode, ...] = ("s2", "s1_navdp", "dual", "joint")
Outputs = dict[str, Any]
UNIFORM_DRAWS = 1 << 24  # a draw u is one of so many integers, see batches.py


class PlannerModule(nn.Module):
    """S2: language-model loss on the assistant's tokens of both turns."""

    terms = ("answer",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.image_token_id: int = network.config.image_token_id

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        labels: Tensor,
    ) -> Outputs:
        """Losses of B conversations, padded on the right to L tokens.

        Args:
            input_ids, attention_mask: (B, L). position_ids: (3, B, L).
            pixel_values: (patches of all images, values). image_grid_thw: (images, 3) integer.
            labels: (B, L) the token's own id on the assistant's tokens, ``NO_LABEL`` elsewhere.
        """
        embeddings = self._embed(input_ids, pixel_values, image_grid_thw)
        hidden = self._run(embeddings, attention_mask, position_ids)
        loss = answer_loss(self.network.lm_head, hidden, labels)
        return {"losses": loss[None], "parts": {}}

    def _embed(self, input_ids: Tensor, pixel_values: Tensor, grids: Tensor) -> Tensor:
        """Input embeddings (B, L, hidden) with image features in their places."""
        body = self.network.model
        embeddings = body.language_model.embed_tokens(input_ids)
        features = torch.cat(body.get_image_features(pixel_values, grids).pooler_output)
        is_image = (input_ids == self.image_token_id)[..., None]
        return embeddings.masked_scatter(is_image, features.to(embeddings.dtype))

    def _run(self, embeddings: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Final-norm hidden states (B, L, hidden)."""
        return self.network.model.language_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state

    def released_name(self, name: str) -> str:
        """Key in a checkpoint of a parameter or buffer of this module."""
        # Adapters (peft) put the layer they are on one level deeper.
        name = name.replace(".base_layer.", ".")
        return s2.released_name(name.removeprefix("network."), self.network)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Called by the trainer."""
        self.network.gradient_checkpointing_enable(**options)


class DualModule(PlannerModule):
    """Planner, latent queries and S1: the loss of S1 on the planner's latents.

    With ``joint`` gradients run through the latents into the whole planner, else no further than the latent queries;
    then the conversation is computed without gradients and only the queries are computed on top of it.
    """

    def __init__(
        self,
        network: nn.Module,
        latent_queries: Tensor,
        system1: NextDiTModel | NavDp,
        s1_prefix: str,
        *,
        joint: bool,
        answer_weight: float = 0.0,
    ) -> None:
        super().__init__(network)
        self.latent_queries = nn.Parameter(latent_queries)
        self.system1 = system1
        self.joint, self._answer_weight, self._s1_prefix = joint, answer_weight, s1_prefix
        self.terms = ("trajectory", "answer") if answer_weight else ("trajectory",)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        labels: Tensor,
        images: Tensor,
        trajectories: Tensor,
        frame_counts: Tensor,
        noise: Tensor,
        u: Tensor,
        depths: Tensor | None = None,
    ) -> Outputs:
        """Losses of B plans with F frames each: conversations as in ``PlannerModule``, and for S1

        Args:
            images: (B, F, H, W, 3) uint8 RGB; frame 0 is the goal frame. depths: (B, F, H, W) metres, for NavDP.
            trajectories: (B, F, T, 3) labels. frame_counts: (B,) how many of the frames are real.
            noise: (B * F, T, 3). u: (B * F,) integers below UNIFORM_DRAWS, the draw of the time step.
        """
        prompt = (input_ids, attention_mask, position_ids, pixel_values, image_grid_thw)
        latents, hidden = self._joint_latents(*prompt) if self.joint else (self._latents(*prompt), None)
        trajectory = self._trajectory_loss(latents, images, depths, trajectories, frame_counts, noise, _share(u))
        if not self._answer_weight:
            return {"losses": trajectory[None], "parts": {}}
        answer = answer_loss(self.network.lm_head, hidden, labels)
        return {
            "losses": torch.stack((trajectory, self._answer_weight * answer)),
            "parts": {"trajectory": trajectory.detach(), "answer": answer.detach()},
        }

    def _trajectory_loss(
        self,
        latents: Tensor,
        images: Tensor,
        depths: Tensor | None,
        trajectories: Tensor,
        frame_counts: Tensor,
        noise: Tensor,
        u: Tensor,
    ) -> Tensor:
        model = self.system1
        if isinstance(model, NextDiTModel):
            used = images if model.config.uses_images else None
            return nextdit_loss(model, latents, used, trajectories, frame_counts, noise=noise, u=u).loss
        if depths is None:
            raise ValueError("depths: this checkpoint's NavDP needs depth images, the data have none")
        timesteps = (u * model.config.ddpm_train_steps).long()
        rgb = images.float() / 255
        return dual_navdp_loss(model, latents, rgb, depths, trajectories, frame_counts, noise, timesteps)[0]

    def _with_queries(self, attention_mask: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mask (B, L + n_query) and the queries' positions (3, B, n_query): behind each conversation's own end."""
        count, batch = self.latent_queries.shape[1], attention_mask.shape[0]
        mask = torch.cat((attention_mask, attention_mask.new_ones(batch, count)), 1)
        ends = position_ids.masked_fill(attention_mask[None] == 0, 0).amax((0, 2))
        behind = ends[:, None] + 1 + torch.arange(count, device=ends.device)
        return mask, behind.expand(3, -1, -1)

    def _joint_latents(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, pixel_values: Tensor, grids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, n_query, hidden) and the conversation's hidden states (B, L, hidden), all with gradients."""
        embeddings = self._embed(input_ids, pixel_values, grids)
        queries = self.latent_queries.to(embeddings.dtype).expand(len(input_ids), -1, -1)
        mask, behind = self._with_queries(attention_mask, position_ids)
        hidden = self._run(torch.cat((embeddings, queries), 1), mask, torch.cat((position_ids, behind), 2))
        length = input_ids.shape[1]
        return hidden[:, length:].float(), hidden[:, :length]

    def _latents(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, pixel_values: Tensor, grids: Tensor
    ) -> Tensor:
        """The same latents; the conversation's keys and values are constants, so it is computed without gradients."""
        decoder = self.network.model.language_model
        with torch.no_grad():
            embeddings = self._embed(input_ids, pixel_values, grids)
            cache = decoder(
                inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, use_cache=True
            ).past_key_values
        mask, behind = self._with_queries(attention_mask, position_ids)
        queries = self.latent_queries.to(embeddings.dtype).expand(len(input_ids), -1, -1)
        hidden = decoder(
            inputs_embeds=queries,
            attention_mask=mask,
            position_ids=behind,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden.float()

    def released_name(self, name: str) -> str:
        if name == "latent_queries":
            return s2.LATENT_QUERIES
        if name.startswith("system1."):
            return self._s1_prefix + name.removeprefix("system1.")
        return super().released_name(name)

    def train(self, mode: bool = True) -> DualModule:
        super().train(mode)
        if not self.joint:
            self.network.eval()  # it is a constant, and its cache is off while it trains
        return self


class NavDpModule(nn.Module):
    """Standalone NavDP: noise without and with goals, critic, and goal points from image and pixel goals."""

    terms = ("total",)

    def __init__(self, system1: nn.Module) -> None:
        super().__init__()
        self.system1 = system1

    def forward(
        self,
        no_goal_u: Tensor,
        mixed_goal_u: Tensor,
        no_goal_noise: Tensor,
        mixed_goal_noise: Tensor,
        **batch: Tensor,
    ) -> Outputs:
        """Losses of B samples: the batch of ``standalone_navdp_loss``, noises (B, T, 3) and the draws of their time
        steps (B,), integers below UNIFORM_DRAWS."""
        steps = self.system1.config.ddpm_train_steps
        result = standalone_navdp_loss(
            self.system1,
            batch,
            no_goal_noise,
            (_share(no_goal_u) * steps).long(),
            mixed_goal_noise,
            (_share(mixed_goal_u) * steps).long(),
        )
        names = ("no_goal", "mixed_goal", "critic", "auxiliary")
        return {"losses": result.loss[None], "parts": {name: getattr(result, name).detach() for name in names}}

    def released_name(self, name: str) -> str:
        """Key in a checkpoint of a parameter or buffer of this module."""
        return name.removeprefix("system1.")

    def train(self, mode: bool = True) -> NavDpModule:
        super().train(mode)
        self.system1.rgbd_encoder.rgb_model.eval()
        return self


TrainingModule = PlannerModule | NavDpModule


def _share(draw: Tensor) -> Tensor:
    """float32 in [0, 1), exactly."""
    return draw.float() / UNIFORM_DRAWS


def check_kind(mode: Mode, folder: CheckpointFolder) -> None:
    """Raise ``CheckpointError`` if a checkpoint is not one that the mode trains; reads its config only."""
    config = s1.described(folder)
    standalone = config.get("model_type") == "navdp"
    if standalone != (mode == "s1_navdp"):
        wanted = "a standalone NavDP (model_type navdp)" if mode == "s1_navdp" else f"a {s2.MODEL_TYPE} checkpoint"
        raise CheckpointError(f"{folder.path}: mode {mode} trains {wanted}, this is {config.get('model_type')!r}")
    if mode in ("dual", "joint") and not s2.has_system1(config):
        raise CheckpointError(f"{folder.path}: mode {mode} needs a dual checkpoint, this one has no system1")


def load_module(
    mode: Mode, folder: CheckpointFolder, *, answer_weight: float = 0.0, frozen_dtype: torch.dtype = torch.float32
) -> TrainingModule:
    """The module of a mode with the tensors of a checkpoint, float32 and trainable but for what ``dual`` freezes.

    Args:
        mode: what is to be trained.
        folder: a checkpoint in the released layout.
        answer_weight: in mode ``joint``, of the language-model loss beside the trajectory loss.
        frozen_dtype: of the planner in mode ``dual``.

    Raises:
        CheckpointError: the checkpoint is not one for this mode, or is damaged.
    """
    check_kind(mode, folder)
    if mode == "s1_navdp":
        return NavDpModule(s1.load_model(folder))
    network = _load_network(folder, frozen_dtype if mode == "dual" else torch.float32)
    if mode == "s2":
        return PlannerModule(network)
    latent_queries = folder.load([s2.LATENT_QUERIES], dtype=torch.float32)[s2.LATENT_QUERIES]
    return DualModule(
        network,
        latent_queries,
        s1.load_model(folder),
        s1.key_prefix(folder.config),
        joint=mode == "joint",
        answer_weight=answer_weight,
    )


def _load_network(folder: CheckpointFolder, dtype: torch.dtype) -> nn.Module:
    network = s2.build_network(folder.config)
    tensors = folder.load(folder.select(s2.NETWORK_PREFIXES), dtype=dtype)
    if folder.config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    load_into(network, tensors, rename=lambda key: s2.installed_name(key, network), where=str(folder.path))
    if folder.config.get("tie_word_embeddings"):
        network.tie_weights()
    return network


def set_dropout(module: nn.Module, share: float) -> None:
    """Dropout of all layers of S1; the planner has none."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = share
        elif isinstance(layer, nn.MultiheadAttention):
            layer.dropout = share


def trained_tensors(module: TrainingModule, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released key → tensor of what training has changed, adapters merged into the layers they are on.

    ``state`` is the module's state dict, with whole tensors even where training keeps them in shards.
    """
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    changes = {
        f"{name}.base_layer.weight": layer.get_delta_weight("default")
        for name, layer in module.named_modules()
        if hasattr(layer, "get_delta_weight")  # a peft layer
    }
    tensors = {name: state[name] for name in trained if ".lora_" not in name}
    tensors |= {name: state[name] + change.to(state[name]) for name, change in changes.items()}
    return {module.released_name(name): tensor for name, tensor in tensors.items()}
