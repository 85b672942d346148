"""One of several processes that hold a training module in shards (FSDP2): its loss and gradients are the whole one's.

accelerate has no FSDP on the CPU, so the layers named in its shipped file are sharded here with torch's own function.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from dual_nav_training.modules import load_module, set_dropout
from dual_nav_training.train import open_data
from dual_nav_training.train_config import TrainConfig
from dual_nav_training.trainable import choose_parameters
from dual_nav_util.checkpoint import CheckpointFolder

FILE = Path(__file__).resolve().parents[1] / "config" / "accelerate_fsdp.yaml"
PROMPTS = {"image_width": 56, "image_height": 56, "num_history": 2}


def main(checkpoint: str, data: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    names = yaml.safe_load(FILE.read_text())["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"].split(",")
    folder = CheckpointFolder(checkpoint)
    for mode in ("s2", "dual", "joint"):
        config = TrainConfig(augment=False, vary_wording=False, data={"prompts": PROMPTS})
        with PartialState(cpu=True).main_process_first():  # it writes the index of the data
            training_set, collate = open_data(mode, config, folder, Path(data))
        batch = collate([training_set[0], training_set[3]])
        weights = batch.pop("weights")
        # With bfloat16 FSDP and DeepSpeed round all floating point inputs: 0.999 to 1, 257 to 256.
        assert not weights.is_floating_point()
        assert "u" not in batch or not batch["u"].is_floating_point()
        results = []
        for sharded in (False, True):
            module = load_module(mode, folder)
            set_dropout(module, 0.0)
            choose_parameters(mode, folder.config, module)
            module.train()
            if sharded:
                layers = [layer for layer in module.modules() if type(layer).__name__ in names]
                assert {type(layer).__name__ for layer in layers} == set(names)
                for layer in layers:
                    fully_shard(layer, mesh=mesh)
                fully_shard(module, mesh=mesh)
            loss = module(**batch)["losses"].sum()
            loss.backward()
            gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
            results.append((loss.item(), gradients))
        (loss, gradients), (sharded_loss, sharded_gradients) = results
        assert abs(loss - sharded_loss) < 1e-5 * abs(loss), (mode, loss, sharded_loss)
        assert gradients.keys() == sharded_gradients.keys(), mode
        for name, gradient in gradients.items():
            whole = sharded_gradients[name].full_tensor()
            assert torch.allclose(gradient, whole, rtol=1e-3, atol=1e-5), (mode, name)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
