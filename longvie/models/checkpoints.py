"""Weights from files to the transformer and back, with every key accounted for.

Knows the released layout (original Wan names; see names.py) and diffusers folders. Only safetensors are read; they
are memory-mapped, so that converting 14 billion parameters never holds two copies. Knows nothing of pipelines.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longvie.config import from_release_config, wan2_1_i2v_14b
from longvie.models.names import is_attention, is_control, release_name, strip_prefix
from longvie.models.transformer import LongVieTransformer3DModel

ALLOWED_LEFTOVERS = ("norm_added_q",)  # older diffusers conversions of Wan carry these unused weights
Shapes = dict[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """Weights that do not fit the model; the message lists every key that is missing, unexpected or mis-shaped."""


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """What a set of weight files holds, against what the model needs of it."""

    role: str  # "base", "control" or "attention"
    files: tuple[Path, ...]
    num_tensors: int
    num_parameters: int
    expected_tensors: int
    expected_parameters: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        head = (
            f"{self.role} ({', '.join(str(file) for file in self.files)}): {self.num_tensors:,} tensors, "
            f"{self.num_parameters:,} parameters; the model expects {self.expected_tensors:,} and "
            f"{self.expected_parameters:,}"
        )
        lists = (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", self.misshaped))
        return "\n".join([head, *(f"  {kind}: {', '.join(keys)}" for kind, keys in lists if keys)])


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Tensors by their name in our model, each still lying in its file."""

    role: str
    where: dict[str, tuple[Path, str]] = field(default_factory=dict)  # our (or a foreign) name -> file, key there
    shapes: Shapes = field(default_factory=dict)

    def account(self, expected: Shapes) -> Accounting:
        def said(name: str) -> str:  # as the user's own files name it
            original = any(key != ours for ours, (_, key) in self.where.items())
            return release_name(name) if original and name in expected else name

        unexpected = {k for k in self.shapes if k not in expected and not any(part in k for part in ALLOWED_LEFTOVERS)}
        both = self.shapes.keys() & expected.keys()
        return Accounting(
            role=self.role,
            files=tuple(dict.fromkeys(file for file, _ in self.where.values())),
            num_tensors=len(self.shapes),
            num_parameters=sum(map(prod, self.shapes.values())),
            expected_tensors=len(expected),
            expected_parameters=sum(map(prod, expected.values())),
            missing=tuple(sorted(map(said, expected.keys() - self.shapes.keys()))),
            unexpected=tuple(sorted(unexpected)),
            misshaped=tuple(
                f"{said(k)} is {self.shapes[k]}, the model has {expected[k]}"
                for k in sorted(both)
                if self.shapes[k] != expected[k]
            ),
        )

    def tensors(self, names: Shapes) -> Iterator[tuple[str, Tensor]]:
        """The tensors with these names, file by file; each is a view of the mapped file until it is converted."""
        by_file: dict[Path, list[tuple[str, str]]] = {}
        for name in names:
            file, key = self.where[name]
            by_file.setdefault(file, []).append((name, key))
        for file, pairs in by_file.items():
            with safe_open(file, "pt") as opened:
                for name, key in pairs:
                    yield name, opened.get_tensor(key)


def load_transformer(
    base: str | Path,
    control: str | Path | None = None,
    attention: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> LongVieTransformer3DModel:
    """Load the transformer from released or diffusers files.

    Args:
        base: a safetensors file or sharded index with original Wan names, or a diffusers folder (of the transformer
            or of a whole pipeline).
        control: the released `control.safetensors`; without it the model has no control layers, unless `base` is a
            folder that LongVie saved.
        attention: the released `dit.safetensors`, laid over the base's self-attention.
        config: a diffusers config, or a dictionary in the original vocabulary, or a JSON file of either. Default: the
            folder's config.json; for original files Wan2.1-I2V-14B-480P.
        dtype: of the parameters, float32 if None as in diffusers; those diffusers keeps in float32 stay so.
        device: where the parameters go, one by one; the CPU if None.

    Raises:
        CheckpointError: lists every missing, unexpected and mis-shaped key of all files at once.
    """
    model, sources = _plan(base, control, attention, config)
    failures = [accounting for weights, expected in sources if not (accounting := weights.account(expected)).fits]
    if failures:
        raise CheckpointError("weights do not fit the model\n" + "\n".join(map(str, failures)))
    keep = set(model._keep_in_fp32_modules or ())
    dtype, device = dtype or torch.float32, torch.device(device or "cpu")
    state: dict[str, Tensor] = {}
    for weights, expected in sources:  # later sources overlay earlier ones
        for name, tensor in weights.tensors(expected):
            state[name] = tensor.to(device, torch.float32 if keep & set(name.split(".")) else dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.rope.to(device)
    return model.eval()


def account_files(
    base: str | Path | None = None,
    control: str | Path | None = None,
    attention: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
) -> list[Accounting]:
    """The accounting of files a user has, from their headers alone; any of the three may be left out."""
    _, sources = _plan(base, control, attention, config)
    return [weights.account(expected) for weights, expected in sources]


def export_release(model: LongVieTransformer3DModel, folder: str | Path, base: bool = False) -> list[Path]:
    """Write the release's layout, original names: `control.safetensors`, `dit.safetensors` and, if asked, the base."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"control.safetensors": is_control, "dit.safetensors": is_attention}
    if base:
        parts["base.safetensors"] = lambda name: not is_control(name)
    written = []
    for file, belongs in parts.items():
        tensors = {release_name(k): v.contiguous() for k, v in model.state_dict().items() if belongs(k)}
        if tensors:
            temporary = folder / f".{file}.tmp"
            save_file(tensors, temporary)
            written.append(temporary.replace(folder / file))
    return written


def _plan(
    base: str | Path | None,
    control: str | Path | None,
    attention: str | Path | None,
    config: Mapping[str, Any] | str | Path | None,
) -> tuple[LongVieTransformer3DModel, list[tuple[_Weights, Shapes]]]:
    """The empty model, and for each given set of files the parameters it must hold."""
    folder = _transformer_folder(base)
    chosen = _read_config(config if config is not None else _folder_config(folder))
    complete = folder is not None and chosen.get("num_control_layers", 0) > 0  # a folder LongVie saved
    if control is None and base is not None and not complete:
        chosen["num_control_layers"] = 0
    elif control is not None:
        chosen["num_control_layers"] = chosen.get("num_control_layers") or wan2_1_i2v_14b()["num_control_layers"]
    try:
        with init_empty_weights():
            model = LongVieTransformer3DModel(**chosen)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"config of the transformer makes no model ({error}); take the one its weights came with"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = {release_name(name): name for name in shapes}
    plan = (
        ("base", base, lambda name: (complete and control is None) or not is_control(name)),
        ("control", control, is_control),
        ("attention", attention, is_attention),
    )
    sources = [
        (_read_headers(role, files, names), {k: v for k, v in shapes.items() if belongs(k)})
        for role, files, belongs in plan
        if files is not None
    ]
    if complete and control is not None:  # the given control replaces the folder's own
        weights, _ = sources[0]
        for name in [name for name in weights.shapes if is_control(name)]:
            del weights.shapes[name], weights.where[name]
    return model, sources


def _read_headers(role: str, path: str | Path, names: Mapping[str, str]) -> _Weights:
    weights = _Weights(role=role)
    for file in weight_files(path):
        try:
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118  not a dict
                    name = names.get(strip_prefix(key), strip_prefix(key))
                    weights.where[name] = (file, key)
                    weights.shapes[name] = tuple(opened.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is not a readable safetensors file ({error}); download it again") from error
    return weights


def weight_files(path: str | Path) -> list[Path]:
    """The safetensors of a file, a sharded index, or a diffusers folder. Nothing else is ever opened."""
    path = Path(path)
    if path.is_dir():
        folder = _transformer_folder(path) or path
        indexes = sorted(folder.glob("*.safetensors.index.json"))
        files = sorted(folder.glob("*.safetensors"))
        if indexes:
            return weight_files(indexes[0])
        if not files:
            raise CheckpointError(f"{folder} holds no .safetensors; weights are read only from safetensors")
        return files
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a .safetensors file, its .index.json, or a folder")
    if path.name.endswith(".index.json"):
        try:
            shards = set(json.loads(path.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a safetensors index (it needs a weight_map)") from error
        if any(Path(shard).name != shard for shard in shards):
            raise CheckpointError(f"{path} names shards outside its own folder; this is refused")
        return [path.parent / shard for shard in sorted(shards)]
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not safetensors; convert it first, other formats can run code when loaded")
    return [path]


def _transformer_folder(base: str | Path | None) -> Path | None:
    if base is None or not Path(base).is_dir():
        return None
    inner = Path(base) / "transformer"
    return inner if inner.is_dir() else Path(base)


def _folder_config(folder: Path | None) -> Mapping[str, Any]:
    if folder is not None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        config.setdefault("num_control_layers", 0)  # a plain Wan folder
        return config
    return wan2_1_i2v_14b()


def _read_config(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(config, str | Path):
        try:
            config = json.loads(Path(config).read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"config {config} is not a readable JSON file ({error})") from error
    if not isinstance(config, Mapping):
        raise CheckpointError(f"config is a {type(config).__name__}; give a JSON object")
    if "num_heads" in config:
        try:
            return from_release_config(config)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(f"config in the original vocabulary is incomplete or wrong ({error!r})") from error
    allowed = inspect.signature(LongVieTransformer3DModel.__init__).parameters
    return {key: value for key, value in config.items() if key in allowed}
