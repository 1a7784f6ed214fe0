from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longvie.controls.weights import WeightsError, convert, find_weights, fingerprint, load_weights


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path(self.path).touch, ())


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"model": t}, lambda t: {"state_dict": {"depth_model": t}}])
def test_published_files_are_unwrapped(tmp_path: Path, wrap) -> None:
    linear = torch.nn.Linear(2, 3)
    torch.save(wrap({f"module.{k}": v for k, v in linear.state_dict().items()}), tmp_path / "in.pth")
    assert convert(tmp_path / "in.pth", tmp_path / "out.safetensors") == 2
    other = torch.nn.Linear(2, 3)
    load_weights(other, tmp_path / "out.safetensors")
    assert fingerprint(other) == fingerprint(linear)
    assert fingerprint(other, "half") != fingerprint(linear)


def test_a_published_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"model": Evil(str(tmp_path / "ran"))}, tmp_path / "in.pth")
    with pytest.raises(Exception, match=r"Weights only load failed"):
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "ran").exists()
    torch.save({"epoch": 3}, tmp_path / "in.pth")
    with pytest.raises(WeightsError, match=r"holds no tensors"):
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")


def test_the_command_that_errors_name_works(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "in.pth")
    command = [
        sys.executable,
        "-m",
        "longvie.controls.weights",
        str(tmp_path / "in.pth"),
        str(tmp_path / "o.safetensors"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "o.safetensors")["a"].tolist() == [1, 1]


def test_keys_must_match_but_for_named_leftovers(tmp_path: Path) -> None:
    linear = torch.nn.Linear(2, 3)
    file = tmp_path / "w.safetensors"
    save_file({**linear.state_dict(), "x.table": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"1 keys differ \(x.table"):
        load_weights(linear, file)
    load_weights(linear, file, leftovers=("table",))
    save_file({"weight": linear.weight.detach()}, file)
    with pytest.raises(WeightsError, match=r"1 keys differ \(bias"):
        load_weights(linear, file, leftovers=("",))
    save_file({f"p.{k}": v for k, v in linear.state_dict().items()}, file)
    load_weights(linear, file, published_name=lambda key: f"p.{key}")
    file.write_bytes(b"garbage")
    with pytest.raises(WeightsError, match=r"not a readable safetensors"):
        load_weights(linear, file)


def test_missing_files_say_how_to_make_them(tmp_path: Path) -> None:
    published = "https://host/some.pth"
    with pytest.raises(WeightsError, match=r"has no some.safetensors; get https://host/some.pth and convert it once"):
        find_weights(str(tmp_path), "some", published=published)
    with pytest.raises(WeightsError, match=r"folder /not/there does not exist; get"):
        find_weights("/not/there", "some", published=published)
    with pytest.raises(WeightsError, match=r"some.safetensors is needed; name its folder"):
        find_weights("", "some", published=published)
    (tmp_path / "some.safetensors").touch()
    assert find_weights(str(tmp_path), "some", published=published) == tmp_path / "some.safetensors"
