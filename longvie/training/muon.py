"""Muon in float32: what torch's computes in bfloat16.

bfloat16 is slow on CPUs that have no instructions for it, and rounds so far that another number of workers shows in the
weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch.optim.Muon with its arguments, state and default scale of rates; matrices of one shape go together."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            values: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, values, gradients, momenta)
            by_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for k, value in enumerate(values):
                by_shape[value.shape].append(k)
            for (rows, columns), same in by_shape.items():
                updates = []
                for k in same:
                    momenta[k].lerp_(gradients[k], 1 - group["momentum"])
                    updates.append(
                        gradients[k].lerp(momenta[k], group["momentum"]) if group["nesterov"] else momenta[k]
                    )
                made = orthogonalized(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                for k, update in zip(same, made, strict=True):
                    values[k].mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
        return loss


def orthogonalized(
    matrices: Float[Tensor, "n rows columns"],
    coefficients: tuple[float, float, float],
    num_steps: int,
    eps: float,
) -> Float[Tensor, "n rows columns"]:
    """About U V^T of each U S V^T, by Newton-Schulz iterations (Keller Jordan, Muon)."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    made = matrices.float().mT if tall else matrices.float()
    made = made / made.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(num_steps):
        gram = made @ made.mT
        made = torch.baddbmm(made, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), made, beta=a)
    return made.mT if tall else made
