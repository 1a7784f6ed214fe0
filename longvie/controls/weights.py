"""Weights of third-party detectors: found in a folder or on the hub, as safetensors only, and loaded strictly.

Most of these detectors are published as pickles, which can run code. They are never read here: convert a file once,
with `python -m longvie.controls.weights IN.pth OUT.safetensors`, which accepts tensors only (PyTorch's weights_only).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What published files wrap their tensors in.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "depth_model", "params")


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit; one line that names the file and the remedy."""


def find_weights(where: str, name: str, *, published: str) -> Path:
    """The file `name`.safetensors in a local folder or a hub repository.

    Args:
        where: a folder, or a repository as OWNER/NAME.
        published: the pickle its authors publish, for the message.

    Raises:
        WeightsError: if it is not there; the message says how to make it.
    """
    file = f"{name}.safetensors"
    remedy = (
        f"get {published} and convert it once: "
        f"python -m longvie.controls.weights {Path(published).name} {where or 'FOLDER'}/{file}"
    )
    folder = Path(where).expanduser()
    if where and folder.is_dir():
        if (folder / file).is_file():
            return folder / file
        raise WeightsError(f"{folder} has no {file}; {remedy}")
    if where.count("/") != 1 or where.startswith((".", "/", "~")):
        reason = f"folder {where} does not exist" if where else f"{file} is needed; name its folder"
        raise WeightsError(f"{reason}; {remedy}")
    try:
        return Path(hf_hub_download(where, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{where} is neither a folder here nor to be had from the hub ({reason}); {remedy}"
        ) from error


def load_weights(
    model: torch.nn.Module,
    path: Path,
    *,
    leftovers: tuple[str, ...] = (),
    published_name: Callable[[str], str] = str,
) -> None:
    """Load a safetensors file into `model`; every key must match.

    Args:
        leftovers: endings of keys that the file may hold beside the model's.
        published_name: from the model's key to the file's, where they differ.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error})") from error
    expected = model.state_dict()
    names = {published_name(key): key for key in expected}
    extra = {name for name in tensors if name not in names and not name.endswith(leftovers)}
    wrong = {name for name in set(names) & set(tensors) if expected[names[name]].shape != tensors[name].shape}
    if problems := (set(names) - set(tensors)) | extra | wrong:
        shown = ", ".join(sorted(problems)[:3])
        raise WeightsError(f"{path} does not fit {type(model).__name__}: {len(problems)} keys differ ({shown}, ...)")
    model.load_state_dict({key: tensors[name] for name, key in names.items()})


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of an argument such as "float16"."""
    if name not in DTYPES:
        raise WeightsError(f"dtype {name} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def fingerprint(model: torch.nn.Module, *settings: Any) -> str:
    """SHA-256 over a model's weights and what else its result depends on."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def convert(source: Path, target: Path) -> int:
    """Convert a published .pth/.pt of tensors to safetensors; returns the number of tensors.

    Wrapping dictionaries and the `module.` prefix of data parallel training are taken off.
    """
    content: Any = torch.load(source, map_location="cpu", weights_only=True)
    while isinstance(content, dict) and (inner := [key for key in _WRAPPERS if isinstance(content.get(key), dict)]):
        content = content[inner[0]]
    if not isinstance(content, dict):
        raise WeightsError(f"{source} holds no dictionary of tensors")
    tensors = {str(key).removeprefix("module."): value for key, value in content.items() if torch.is_tensor(value)}
    if not tensors:
        raise WeightsError(f"{source} holds no tensors")
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, target)
    return len(tensors)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m longvie.controls.weights IN.pth OUT.safetensors")
    print(f"{convert(Path(sys.argv[1]), Path(sys.argv[2]))} tensors written to {sys.argv[2]}")
