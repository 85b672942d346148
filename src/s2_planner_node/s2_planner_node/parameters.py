"""Parameters of the s2_planner node. Plain Python, no ROS."""

from __future__ import annotations

from dataclasses import dataclass

from dual_nav_util.params import ParameterError, parameter

from .checkpoint import PRECISIONS
from .decoder import ATTENTIONS
from .planner import PlannerConfig


@dataclass(frozen=True)
class Parameters:
    """All parameters but `autostart` and `use_sim_time`; ranges and descriptions are those of the ROS descriptors."""

    model: str = parameter("", "Checkpoint folder or hub id of the planner (InternVLA-N1 layout)")
    device: str = parameter("cpu", "Where the model runs: cpu, cuda or cuda:N")
    precision: str = parameter("auto", "Floating-point type; auto is bfloat16 on a GPU", choices=PRECISIONS)
    attention: str = parameter("auto", "Attention implementation; auto takes the best installed", choices=ATTENTIONS)
    torch_threads: int = parameter(
        0, "Threads of one torch operation on the CPU; 0 leaves torch's choice", low=0, high=256
    )
    rgb_transport: str = parameter(
        "raw", "Message type of the rgb topics: Image or CompressedImage", choices=("raw", "compressed")
    )
    use_look_down: bool = parameter(False, "Answer ↓ with the newest image of rgb_look_down, a second, tilted camera")
    num_history: int = parameter(8, "Earlier frames of the episode in a prompt; 0: none", low=0, high=64)
    # A frame of a longer episode's history is at most 1/127 of the episode away from the exact one. The images
    # (57 MB) are allocated at the start; features take 1.4 MB an image at 7B.
    history_capacity: int = parameter(
        128, "Frames kept of an episode; beyond, history is thinned out", low=2, high=100_000
    )
    feature_capacity: int = parameter(128, "Images whose features are kept; 0 keeps none", low=0, high=100_000)
    max_new_tokens: int = parameter(128, "Longest answer", low=1, high=4096, unit="tokens")
    max_instruction_bytes: int = parameter(4096, "Longest instruction in UTF-8", low=1, high=1_000_000, unit="bytes")
    sensor_timeout: float = parameter(
        1.0, "Silence of rgb or s1/state after which diagnostics complain", low=0.05, high=60.0, unit="s"
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ParameterError("parameter 'model' is empty: must be a checkpoint folder or a hub id")
        try:
            self.planner_config()
        except ValueError as error:
            raise ParameterError(f"parameter {error}") from error

    def planner_config(self) -> PlannerConfig:
        """The part the model code needs."""
        return PlannerConfig(
            device=self.device,
            precision=self.precision,
            attention=self.attention,
            num_history=self.num_history,
            history_capacity=self.history_capacity,
            feature_capacity=self.feature_capacity,
            max_new_tokens=self.max_new_tokens,
            max_instruction_bytes=self.max_instruction_bytes,
        )
