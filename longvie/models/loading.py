"""From a name or folder to a `LongViePipeline` ready to run, and what identifies it.

`None` means the embedded tiny model. The plan of a job needs only the model's `model_index.json`: reading it loads no
weights.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from longvie.models.checkpoints import CheckpointError, load_transformer, weight_files
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline

TINY = Path(__file__).parent.parent / "tiny"
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
LOADED = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")  # no format that can run code


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """What a job must know of a model before it loads it. Sizes in pixels, `temporal` frames a latent."""

    path: Path
    segment_length: int
    num_history_frames: int
    fps: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    size_multiple: int

    def defaults(self) -> dict[str, Any]:
        """For `GenerationConfig.for_pipeline`."""
        names = ("height", "width", "num_inference_steps", "guidance_scale")
        return {name: getattr(self, name) for name in names}


def resolve_model(model: str | Path | None) -> Path:
    """The folder of a model in diffusers layout: the embedded one, a folder, or a hub repository by its name."""
    if model is None:
        return TINY
    if Path(model).is_dir():
        if not (Path(model) / "model_index.json").is_file():
            raise CheckpointError(f"{model} has no model_index.json; give a folder in diffusers layout")
        return Path(model)
    if str(model).count("/") != 1 or str(model).startswith((".", "/", "~")):
        raise CheckpointError(f"model {model} does not exist; give a folder in diffusers layout or a hub name")
    try:
        return Path(snapshot_download(str(model), allow_patterns=list(LOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"model {model} is neither a folder here nor to be had from the hub ({reason})"
        ) from error


def read_pipeline_config(model: str | Path | None = None) -> PipelineConfig:
    """Read the model's defaults and factors from its JSON files, without weights.

    A folder of the base model (Wan's own pipeline) has none of LongVie's fields: `LongViePipeline`'s defaults hold.
    """
    path = resolve_model(model)
    index, vae, transformer = (
        read_json(path / name) for name in ("model_index.json", "vae/config.json", "transformer/config.json")
    )
    names = ("segment_length", "num_history_frames", "fps", "height", "width", "num_inference_steps", "guidance_scale")
    defaults = _signature_defaults()
    for name in names:
        value = index.get(name, defaults[name])
        if type(value) is not int and (name, type(value)) != ("guidance_scale", float):
            raise CheckpointError(f"{path / 'model_index.json'}, field {name}: {value!r} is not a number of its kind")
    try:
        return PipelineConfig(
            path=path,
            size_multiple=vae.get("scale_factor_spatial", 8) * transformer["patch_size"][1],
            **{name: index.get(name, defaults[name]) for name in names},
        )
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a LongVie or Wan image-to-video model ({error!r} in its config)"
        ) from error


def load_pipeline(
    model: str | Path | None = None,
    control: str | Path | None = None,
    attention: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    num_control_layers: int | None = None,
) -> LongViePipeline:
    """Load a pipeline: a folder LongVie saved, or Wan's diffusers folder with the released control and attention.

    Args:
        model: None for the embedded tiny model, a diffusers folder, or a hub repository by its name.
        control, attention: the released `control.safetensors` and `dit.safetensors`; see `load_transformer`.
        dtype: of the transformer and encoders (float32 if None); the VAE stays float32 as Wan's does.
        device: of all components; the CPU if None.
        num_control_layers: of `control`, where it is not the released 12.
    """
    path = resolve_model(model)
    config = read_json(path / "transformer" / "config.json")
    if num_control_layers is not None:
        config["num_control_layers"] = num_control_layers
    transformer = load_transformer(path, control, attention, config=config, dtype=dtype, device=device)
    return open_pipeline(path, transformer, dtype, device)


def open_pipeline(
    path: Path,
    transformer: LongVieTransformer3DModel | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> LongViePipeline:
    """All components of a folder around a transformer; None: without one, for what its encoders make."""
    dtypes = {"default": dtype or torch.float32, "vae": torch.float32}
    try:
        pipe = LongViePipeline.from_pretrained(path, transformer=transformer, dtype=dtypes, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be loaded ({reason}); download it again") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device or "cpu")


def check_components(path: Path) -> None:
    """Raise `CheckpointError` unless all parts that model_index.json names are there, weights as whole safetensors.

    Only headers are read. The transformer has an accounting of its own; see `account_files`.
    """
    for name, named in read_json(path / "model_index.json").items():
        if not isinstance(named, list) or None in named or name == "transformer":
            continue
        folder = path / name
        configs = [folder / config for config in _CONFIGS if (folder / config).is_file()]
        if not configs:
            raise CheckpointError(f"{path} lacks {name}/, which its model_index.json names; download it again")
        for config in configs:
            read_json(config)
        for file in weight_files(folder) if (folder / "config.json").is_file() else ():
            try:
                with safe_open(file, "pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file} is not a readable safetensors file ({error}); download it again"
                ) from error


def fingerprint(
    model: str | Path | None = None, control: str | Path | None = None, attention: str | Path | None = None
) -> str:
    """SHA-256 over everything a result depends on: the folder's weights, configs and tokenizer, and the overlays."""
    path = resolve_model(model)
    files = {f"model/{file.relative_to(path)}": file for pattern in LOADED for file in path.rglob(pattern)}
    for role, weights in (("control", control), ("attention", attention)):
        if weights is not None:
            files.update({f"{role}/{i}": file for i, file in enumerate(weight_files(weights))})
    return digest_files(files)


def digest_files(files: Mapping[str, Path]) -> str:
    """SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _signature_defaults() -> Mapping[str, Any]:
    parameters = inspect.signature(LongViePipeline.__init__).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `CheckpointError` if the file holds none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content
