"""What several tests need of the reference numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from longvie.models.checkpoints import load_transformer
from longvie.models.transformer import LongVieTransformer3DModel

TOLERANCE = 2e-5  # max abs error; another attention kernel alone gives about 5e-6


def load_golden(folder: Path, **kwargs: Any) -> LongVieTransformer3DModel:
    config = json.loads((folder / "dev_config.json").read_text())
    kwargs.setdefault("control", folder / "dev_control.safetensors")
    return load_transformer(folder / "dev_dit_full.safetensors", config=config, **kwargs)


def golden_tensors(folder: Path, name: str = "dev_forward") -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max().item()
    assert error <= tolerance, f"max abs error {error:.2e}"
