"""The public face: every name is there, and those who only decode do not pay for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import longvie


def test_every_public_name_is_there() -> None:
    for name in longvie.__all__:
        assert getattr(longvie, name).__name__ == name
    assert set(longvie.__all__) <= set(dir(longvie))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = longvie.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["longvie", "longvie.media", "longvie.segments", "longvie.shots", "longvie.config"])
def test_what_decodes_and_plans_needs_no_torch(module: str) -> None:
    heavy = "('torch', 'torchvision', 'diffusers', 'transformers')"
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
