"""Flow-matching Euler sampler of the NextDiT trajectory model, with classifier-free guidance.

Same schedule and update as diffusers' FlowMatchEulerDiscreteScheduler with default settings and sigmas
linspace(1, 1/n, n): x moves from noise at sigma 1 to a trajectory at sigma 0 along the predicted velocity.
The arithmetic of a step is one multiply-add, so there is no scheduler object in the loop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .checks import check_number, check_positive_int, check_shape, check_tensor
from .nextdit import Condition, Modulations
from .nextdit_model import ACTION_DIM, NextDiTModel
from .packed_nextdit import packed_for_sampling
from .sample_threads import SampleThreads

NUM_TRAIN_TIMESTEPS = 1000
_ROWS = 512  # trajectory tokens of one core: 16 of 32 samples of 32 steps


def flow_schedule(num_steps: int) -> tuple[Tensor, Tensor]:
    """Integer time steps (n,) from 1000 down and sigmas (n + 1,) from 1 to 0, float32."""
    check_positive_int("num_steps", num_steps)
    sigmas = torch.from_numpy(np.linspace(1.0, 1.0 / num_steps, num_steps).astype(np.float32))
    timesteps = (sigmas * NUM_TRAIN_TIMESTEPS).long()  # the release casts; training keeps floats
    return timesteps, torch.cat((sigmas, sigmas.new_zeros(1)))


class FlowMatchingSampler:
    """Draws trajectories for one condition at a time.

    Args:
        model: in evaluation mode; its device and dtype are the sampler's. Its weights must not change
            afterwards: parts of the result depend on them alone and are kept. The state stays float32.
        num_steps: Euler steps; None takes the checkpoint's own.
        guidance_scale: weight w of classifier-free guidance, v = u + w (c - u). At 1 the unconditional
            half cancels out exactly and is not computed.
        compile: run the denoiser through ``torch.compile`` (the first call then takes a minute).
        cuda_graph: replay the whole loop as one CUDA graph per shape; needs a CUDA model.

    Raises:
        TypeError, ValueError: an argument out of range, named.
    """

    def __init__(
        self,
        model: NextDiTModel,
        *,
        num_steps: int | None = None,
        guidance_scale: float = 1.0,
        compile: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.model = model
        self.guidance_scale = check_number("guidance_scale", guidance_scale)
        timesteps, sigmas = flow_schedule(model.config.num_inference_steps if num_steps is None else num_steps)
        self._step_sizes = torch.diff(sigmas).tolist()
        self._dit = model.dit if compile else packed_for_sampling(model.dit, _ROWS)
        self._velocity = torch.compile(self._velocity_of, dynamic=False) if compile else self._velocity_of
        if cuda_graph and model.device.type != "cuda":
            raise ValueError(f"cuda_graph: expected a model on a CUDA device, got {model.device}")
        # One device computes all samples at once; the cores of a CPU take a slice of the samples each.
        self._in_slices = SampleThreads(None if model.device.type == "cpu" else 1)
        self._graphs: dict[tuple[int, ...], _GraphedLoop] | None = {} if cuda_graph else None
        with torch.inference_mode():
            # Time embeddings depend on the schedule alone, the null condition on the weights alone: once for all.
            self._time_embedding = model.dit.time_embedding(timesteps.to(model.device)).unsqueeze(1)
            null_token = torch.zeros(1, 1, model.config.dit.condition_dim, dtype=model.dtype, device=model.device)
            self._null = model.dit.condition(null_token)

    @property
    def num_steps(self) -> int:
        return len(self._step_sizes)

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed at all."""
        return self.guidance_scale != 1.0

    @torch.inference_mode()
    def prepare(self, tokens: Tensor) -> tuple[Condition, Modulations]:
        """All that is fixed while sampling with condition tokens (1, L, C): done once per frame.

        With guidance the null condition comes first, so G is 2, otherwise 1. The modulations are those of
        all steps, the step being their first dimension.
        """
        check_shape("condition tokens", tokens.shape, (1, None, self.model.config.dit.condition_dim))
        condition = self.model.dit.condition(tokens)
        if self.guided:
            # Equal tokens share the attention equally, so one zero token repeated is the null condition.
            condition = Condition.stack((self._null.expand_tokens(condition.num_tokens), condition))
        return condition, self.model.dit.modulations(self._time_embedding, condition.pooled)

    def draw_noise(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Start noise (S, T, 3), float32, on the model's device."""
        shape = (check_positive_int("num_samples", num_samples), self.model.config.horizon, ACTION_DIM)
        device = generator.device if generator is not None else self.model.device
        return torch.randn(shape, generator=generator, device=device).to(self.model.device)

    @torch.inference_mode()
    def sample(
        self,
        tokens: Tensor,
        num_samples: int = 32,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Trajectories (S, T, 3), float32, for condition tokens (1, L, condition_dim).

        Args:
            tokens: see :meth:`NextDiTModel.condition_tokens`.
            num_samples: S.
            noise: start noise (S, T, 3) instead of a draw, for reproducible results.
            generator: for the draw.

        Raises:
            ValueError: noise of another shape (expected and given are named), or NaN.
        """
        if noise is None:
            noise = self.draw_noise(num_samples, generator)
        else:
            check_positive_int("num_samples", num_samples)
            check_tensor("noise", noise, (num_samples, self.model.config.horizon, ACTION_DIM))
        condition, modulations = self.prepare(tokens)
        x = noise.to(self.model.device, torch.float32)
        if self._graphs is None:
            return self._in_slices(lambda part: self._run(part, condition, modulations), x.clone())
        key = (*x.shape, condition.num_tokens)
        if key not in self._graphs:
            self._graphs[key] = _GraphedLoop(self._run, x, condition, modulations)
        return self._graphs[key](x, condition, modulations)

    def _run(self, x: Tensor, condition: Condition, modulations: Modulations) -> Tensor:
        """The Euler loop; ``x`` (S, T, 3) is overwritten."""
        for step_size, modulation in zip(self._step_sizes, modulations.steps(), strict=True):
            x.add_(self.guided_velocity(x, modulation, condition), alpha=step_size)
        return x

    def _velocity_of(self, x: Tensor, modulation: Modulations, condition: Condition) -> Tensor:
        """As `NextDiTModel.velocity`, through the denoiser made for this device."""
        return self.model.action_decoder(self._dit.denoise(self.model.embed_trajectories(x), modulation, condition))

    def guided_velocity(self, x: Tensor, modulation: Modulations, condition: Condition) -> Tensor:
        """Velocity (S, T, 3), float32, of one step after guidance."""
        velocity = self._velocity(x.expand(condition.pooled.shape[0], *x.shape), modulation, condition).float()
        if not self.guided:
            return velocity[0]
        unconditional, conditional = velocity
        return unconditional.lerp(conditional, self.guidance_scale)


class _GraphedLoop:
    """One captured CUDA graph of the whole loop, with buffers of its own for what goes in.

    Written for CUDA and not run by the CPU tests: capture follows the pattern of the torch documentation
    (warm-up on a side stream, then capture; replay after copying inputs into the captured addresses).
    """

    def __init__(
        self,
        run: Callable[[Tensor, Condition, Modulations], Tensor],
        x: Tensor,
        condition: Condition,
        modulations: Modulations,
    ) -> None:
        self._x = x.clone()
        self._condition = Condition(
            condition.pooled.clone(),
            tuple(k.clone() for k in condition.keys),
            tuple(v.clone() for v in condition.values),
        )
        self._modulations = Modulations(
            tuple(layer.clone() for layer in modulations.layers), modulations.final.clone()
        )
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                run(self._x, self._condition, self._modulations)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            run(self._x, self._condition, self._modulations)  # leaves its result in self._x

    def __call__(self, x: Tensor, condition: Condition, modulations: Modulations) -> Tensor:
        own = [self._x, *self._condition.tensors(), *self._modulations.tensors()]
        given = [x, *condition.tensors(), *modulations.tensors()]
        torch._foreach_copy_(own, given)
        self._graph.replay()
        return self._x.clone()
