"""LoRA layers on a transformer's base attention, through PEFT: added, told apart, saved.

What is saved loads into a pipeline with `pipe.load_lora_weights(folder)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from longvie.models.names import is_lora
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline

# The base's attention, as most LoRAs of Wan; not the control's blocks, whose names go on after `blocks.N`
BASE_ATTENTION = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
RANK = 32


def add_lora(model: LongVieTransformer3DModel, rank: int = RANK, seed: int = 0, targets: str = BASE_ATTENTION) -> None:
    """Add LoRA layers in place, float32; they start at no effect. All other parameters are frozen.

    Args:
        rank: of the layers; they count fully (alpha = rank).
        targets: regular expression of the linear layers' whole names.

    Raises:
        ValueError: rank is less than 1, or no layer has such a name.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; give 1 or more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    for name, value in model.named_parameters():
        value.requires_grad_(is_lora(name))
        if is_lora(name):
            value.data = value.data.float()


def save_lora(model: LongVieTransformer3DModel, weights: Mapping[str, Tensor], folder: Path) -> Path:
    """Write `pytorch_lora_weights.safetensors` with its metadata.

    Args:
        model: with the layers.
        weights: of all layers, by the names of its parameters, whole and on the CPU, such as the averaged ones.
    """
    own = {name: value for name, value in weights.items() if is_lora(name)}
    layers: dict[str, nn.Module | Tensor] = dict(get_peft_model_state_dict(model, state_dict=own))
    LongViePipeline.save_lora_weights(
        folder,
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    return folder
