"""Real frames, and ways to make frames worse by degrees."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

FILM = Path(__file__).resolve().parents[3] / "examples" / "big_buck_bunny.mp4"


def noisy(frames: torch.Tensor, amount: float) -> torch.Tensor:
    """Gaussian noise of that standard deviation, the same for every amount."""
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return (frames + amount * noise).clamp(0, 255).to(torch.uint8)


def blurred(frames: torch.Tensor, amount: int) -> torch.Tensor:
    side = 2 * amount + 1
    return torch.from_numpy(np.stack([cv2.GaussianBlur(frame, (side, side), amount) for frame in frames.numpy()]))


def shifted(frames: torch.Tensor, amount: int) -> torch.Tensor:
    return frames.roll(amount, dims=2)
