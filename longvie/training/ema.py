"""Moving average of the weights that learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average in float32 of named parameters, where they are (sharded ones stay sharded)."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self._decay = decay
        self._parameters = dict(parameters)
        self.weights: dict[str, Tensor] = {
            name: value.detach().float().clone() for name, value in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After a step, counted from 0. Early on the decay is lower, so that the start is soon forgotten."""
        decay = min(self._decay, (step + 1) / (step + 10))
        for name, value in self._parameters.items():
            self.weights[name].lerp_(value.detach().float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights within."""
        kept = {name: value.detach().clone() for name, value in self._parameters.items()}
        try:
            self._put(self.weights)
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, value in self._parameters.items():
            value.copy_(weights[name])
