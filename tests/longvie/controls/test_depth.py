"""Depth estimators load from disk, resize, batch, and say what is wrong; the networks are tiny and random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

from longvie.controls import depth_adapters
from longvie.controls.depth import DepthError
from longvie.controls.loading import load_depth_estimator

SIZE = (36, 60)


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_anything(tmp_path_factory.mktemp("depth_anything"))


def save_depth_anything(folder: Path, **config: object) -> Path:
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=32,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            head_hidden_size=4,
            **config,
        )
    )
    for parameter in model.parameters():  # as initialised it gives nearly nothing
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(model.head.conv3.bias, 1.0)
    model.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14, do_pad=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), np.uint8)


def test_a_transformers_model_loads_from_a_folder(depth_anything: Path, frames: np.ndarray) -> None:
    estimator = load_depth_estimator(f"transformers:{depth_anything}", batch_size=2)
    depth = estimator(frames)
    assert depth.shape == frames.shape[:3]
    assert depth.dtype == np.float32
    assert np.ptp(depth) > 0
    assert estimator.polarity == "disparity"
    assert estimator.name == f"transformers:{depth_anything}"


def test_its_depth_is_the_model_s_own(depth_anything: Path, frames: np.ndarray) -> None:
    """What transformers' depth pipeline computes for one picture."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    processor = AutoImageProcessor.from_pretrained(depth_anything)
    model = AutoModelForDepthEstimation.from_pretrained(depth_anything)
    with torch.inference_mode():
        outputs = model(**processor(images=frames[3], return_tensors="pt"))
    expected = processor.post_process_depth_estimation(outputs, target_sizes=[SIZE])[0]["predicted_depth"]
    made = load_depth_estimator(f"transformers:{depth_anything}")(frames)
    np.testing.assert_allclose(made[3], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_batches_do_not_change_depth_but_precision_does(depth_anything: Path, frames: np.ndarray) -> None:
    one, three = (load_depth_estimator(f"transformers:{depth_anything}", batch_size=n) for n in (1, 3))
    np.testing.assert_allclose(one(frames), three(frames), rtol=1e-4, atol=1e-5)
    assert one.fingerprint == three.fingerprint
    half = load_depth_estimator(f"transformers:{depth_anything}", dtype="bfloat16")
    difference = np.abs(half(frames) - one(frames)).max()
    assert 0 < difference < 0.1 * np.abs(one(frames)).max()
    assert half.fingerprint != one.fingerprint


def test_metric_depth_anything_and_dpt_tell_their_polarity(tmp_path: Path, frames: np.ndarray) -> None:
    metric = save_depth_anything(tmp_path / "metric", depth_estimation_type="metric", max_depth=20)
    assert load_depth_estimator(f"transformers:{metric}").polarity == "depth"
    torch.manual_seed(0)
    model = DPTForDepthEstimation(
        DPTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=64,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
        )
    )
    model.save_pretrained(tmp_path / "dpt")
    DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "dpt")
    estimator = load_depth_estimator(f"transformers:{tmp_path / 'dpt'}")
    assert estimator.polarity == "disparity"
    assert estimator(frames[:1]).shape == (1, *SIZE)
    assert load_depth_estimator(f"transformers:{tmp_path / 'dpt'}", polarity="depth").polarity == "depth"


def test_pickled_weights_are_not_read(tmp_path: Path, depth_anything: Path) -> None:
    for file in depth_anything.iterdir():
        if file.suffix == ".safetensors":
            torch.save(load_file(file), tmp_path / "pytorch_model.bin")
        else:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DepthError, match=r"needs config.json, preprocessor_config.json and model.safetensors"):
        load_depth_estimator(f"transformers:{tmp_path}")


def test_what_cannot_be_had_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cases = {
        "nothing": "there is no depth estimator 'nothing'; give one of: builtin, depth-anything-v2-small",
        "transformers:": "there is no depth estimator",
        "transformers:/not/there": "/not/there does not exist; give a folder or a hub repository",
        "transformers:nobody/nothing": "nobody/nothing is neither a folder here nor to be had from the hub",
        "depth-anything-v2-small": "depth-anything/Depth-Anything-V2-Small-hf is neither a folder here nor",
        f"transformers:{tmp_path}": "cannot be loaded .* needs config.json",
        "video-depth-anything:folder": "not among transformers' models; run its authors' code",
        "midas": "dpt_hybrid-midas-501f0c75.safetensors is needed; name its folder; get https",
        f"zoe:{tmp_path}": r"has no ZoeD_M12_N.safetensors; get .* convert it once: python -m longvie.controls.weights",
    }
    for spec, message in cases.items():
        with pytest.raises(DepthError, match=message) as caught:
            load_depth_estimator(spec)
        assert "\n" not in str(caught.value)


def test_wrong_arguments_are_refused(depth_anything: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size is 0"):
        load_depth_estimator(f"transformers:{depth_anything}", batch_size=0)
    with pytest.raises(ValueError, match=r"dtype int8 is not one of"):
        load_depth_estimator(f"transformers:{depth_anything}", dtype="int8")


class Column(torch.nn.Module):
    """Stands for a network of controlnet-aux: its depth is the picture's first channel, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0] * self.weight


def test_controlnet_aux_networks_load_strictly_and_keep_their_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, polarity, _, _ = depth_adapters._NETWORKS["midas"]
    entry = (published, polarity, Column, lambda model, pixels: model(pixels))
    monkeypatch.setitem(depth_adapters._NETWORKS, "midas", entry)
    file = tmp_path / "dpt_hybrid-midas-501f0c75.safetensors"
    save_file({"weight": torch.full((1,), 10.0)}, file)
    estimator = load_depth_estimator(f"midas:{tmp_path}", batch_size=2)
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8), SIZE)
    frames = np.stack([np.stack([ramp // n] * 3, axis=-1) for n in (1, 2, 4)])
    depth = estimator(frames)
    assert estimator.polarity == "disparity"
    # the range of each frame is its own: nothing is scaled by frame
    np.testing.assert_allclose(depth.max(axis=(1, 2)), frames.max(axis=(1, 2, 3)) / 25.5, rtol=0.05)
    save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(DepthError, match=r"does not fit Column: 1 keys differ \(weight"):
        load_depth_estimator(f"midas:{tmp_path}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["midas", "leres", "zoe"])
def test_controlnet_aux_networks_run(kind: str, tmp_path: Path, frames: np.ndarray) -> None:
    published, _, build, _ = depth_adapters._NETWORKS[kind]
    save_file(
        {k: v.clone().contiguous() for k, v in build().state_dict().items()},
        tmp_path / f"{Path(published).stem}.safetensors",
    )
    depth = load_depth_estimator(f"{kind}:{tmp_path}")(frames[:1])
    assert depth.shape == (1, *SIZE)
    assert np.isfinite(depth).all()
