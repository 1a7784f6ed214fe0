"""Muon in float32: what torch's computes in bfloat16.

bfloat16 is slow on CPUs that have no instructions for it, and rounds so far that another number of workers shows in the
weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """torch.optim.Muon with its arguments, state and default scale of rates; matrices of one shape go together.

    Args:
        rank, world_size: of workers that hold the same matrices and gradients: each orthogonalizes some of them for
            all, which is most of a step's cost.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], *, rank: int = 0, world_size: int = 1, **arguments: Any
    ) -> None:
        super().__init__(matrices, **arguments)
        self._rank, self._world_size = rank, world_size

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            values = [value for value in group["params"] if value.grad is not None]
            gradients = [value.grad for value in values]
            momenta = [self._momentum(value) for value in values]
            by_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for k, value in enumerate(values):
                by_shape[value.shape].append(k)
                momenta[k].lerp_(gradients[k], 1 - group["momentum"])
            moves: dict[int, Tensor] = {}
            for same in by_shape.values():
                mine = same[self._rank :: self._world_size]
                if not mine:
                    continue
                steps = [
                    gradients[k].lerp(momenta[k], group["momentum"]) if group["nesterov"] else momenta[k] for k in mine
                ]
                made = orthogonalized(torch.stack(steps), group["ns_coefficients"], group["ns_steps"], group["eps"])
                moves.update(zip(mine, made, strict=True))
            if self._world_size > 1:
                moves = _of_all_workers(moves, values)
            for k, value in enumerate(values):
                rows, columns = value.shape
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                value.mul_(1 - group["lr"] * group["weight_decay"]).add_(moves[k], alpha=-rate)
        return loss

    def _momentum(self, value: Tensor) -> Tensor:
        state = self.state[value]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(value)
        return state["momentum_buffer"]


def _of_all_workers(moves: Mapping[int, Tensor], values: Sequence[Tensor]) -> dict[int, Tensor]:
    """Every worker's moves, by the place of their values."""
    sizes = [value.numel() for value in values]
    total = torch.zeros(sum(sizes), device=values[0].device if values else None)
    parts = [part.view_as(value) for part, value in zip(total.split(sizes), values, strict=True)]
    for k, move in moves.items():
        parts[k].copy_(move)
    dist.all_reduce(total)  # each worker has zeros where others made something
    return dict(enumerate(parts))


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
