"""The transfer tasks, offline and small: each makes another look that follows the source's controls."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from longvie.media import Video, read_image

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "transfer.py"


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transfer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", ["edit", "motion", "mesh"])
def test_a_task_ends_with_a_video_and_its_report(task: str, transfer: ModuleType, tmp_path: Path) -> None:
    transfer.main([task, "--out", str(tmp_path / "out"), "--segments", "2"])
    (video,) = (tmp_path / "out" / "made").glob("*/video.mp4")
    frames = Video(video).read(range(33))
    first = read_image(str(tmp_path / "out" / "first_frame.png"))
    source = read_image(str(next((tmp_path / "out" / "prepared" / "controls").glob("*/first_00000.png"))))
    like = [np.abs(frames[0].astype(int) - image.astype(int)).mean() for image in (first, source)]
    assert like[0] < like[1], "it looks as its first frame, not as the source"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:video/mp4;base64," in page
    assert "Depth AbsRel" in page
    assert "PSNR" not in re.sub(r"base64,[^\"]*", "", page), "there is no truth to compare with"
