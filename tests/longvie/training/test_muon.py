"""Muon in float32 does what torch's does, but for the rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longvie.training.muon import Muon, orthogonalized

SHAPES = ((12, 12), (12, 30), (30, 12), (12, 12))
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # torch's defaults


def moved(kind: type[torch.optim.Optimizer], **options: object) -> list[Tensor]:
    torch.manual_seed(0)
    values = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = kind(values, lr=0.1, **options)  # type: ignore[call-arg]
    for _ in range(3):
        for value in values:
            value.grad = torch.randn(value.shape)
        optimizer.step()
    return [value.detach() for value in values]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.0}, {"nesterov": False}])
def test_it_moves_as_torchs(options: dict[str, object]) -> None:
    for ours, theirs in zip(moved(Muon, **options), moved(torch.optim.Muon, **options), strict=True):
        torch.testing.assert_close(ours, theirs, atol=4e-3, rtol=0)  # three steps of .1, rounded to 8 bits


def test_singular_values_come_close_to_one() -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        values = torch.linalg.svdvals(orthogonalized(torch.randn(3, *shape), COEFFICIENTS, 5, 1e-7))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_matrices_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    many = torch.randn(4, 12, 30)
    together = orthogonalized(many, COEFFICIENTS, 5, 1e-7)
    for one, made in zip(many, together, strict=True):
        torch.testing.assert_close(orthogonalized(one[None], COEFFICIENTS, 5, 1e-7)[0], made, atol=1e-5, rtol=0)


def test_what_has_no_gradient_stays() -> None:
    still, other = torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3, 3))
    other.grad = torch.eye(3)
    Muon([still, other], lr=0.1).step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(other, torch.ones(3, 3))
