"""Muon for the blocks' matrices, AdamW for the rest; their schedule and their state as tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MUON_RATE, ADAMW_RATE = 0.02, 2e-3  # ours, measured on the tiny model
WARMUP = 60
DECAY_SHARE = 0.45  # the last part of the run, over which the rate falls to zero


class Optimizers:
    """Both optimisers as one."""

    def __init__(self, model: nn.Module) -> None:
        matrices, rest = [], []
        for name, parameter in model.named_parameters():
            (matrices if parameter.ndim == 2 and ".blocks." in name else rest).append(parameter)
        self.parts = {
            "muon": torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.0),
            "adamw": torch.optim.AdamW(rest, lr=ADAMW_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
        }
        self._parameters = list(model.parameters())

    def step(self, rate: float) -> None:
        """Clip, update with the given share of the peak rates, and clear gradients."""
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for name, peak in (("muon", MUON_RATE), ("adamw", ADAMW_RATE)):
            for group in self.parts[name].param_groups:
                group["lr"] = peak * rate
            self.parts[name].step()
            self.parts[name].zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        return {
            f"{part}.{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
            for part, optimizer in self.parts.items()
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for part, optimizer in self.parts.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                owner, index, name = key.split(".", 2)
                if owner == part:
                    state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def rate_at(step: int, num_steps: int) -> float:
    """Warm up, stay, fall linearly to zero: the share of the peak rate."""
    return min(1.0, (step + 1) / WARMUP, (num_steps - step) / (DECAY_SHARE * num_steps))
