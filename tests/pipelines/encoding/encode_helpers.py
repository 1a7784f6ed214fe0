"""A small prepared folder, toy models with and without an image encoder, and runs that are really killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline
from pipelines.encoding.encode import EncodeSummary, encode
from pipelines.encoding.options import EncodeOptions
from pipelines.storage import Storage, open_storage
from tests.pipelines.helpers import KillingStorage, Log
from tests.pipelines.preparation import prepare_helpers
from tests.pipelines.preparation.prepare_helpers import Recorder, killing, write_clip, write_manifest
from tests.toy import toy_pipeline

SEGMENT_LENGTH = 9
CLIPS = {"a": 26, "b": 9}  # frames: four segments, the last of two frames; and one
PROMPTS = {"a": "a red ball rolls", "b": "night"}
SHARD = 2  # segments
NUM_SEGMENTS = 5
NUM_UNITS = 4  # two shards and one, and what stands for an absent prompt


def write_prepared(folder: Path, clips: dict[str, int] = CLIPS, **options: Any) -> Path:
    """Two clips with a prompt each, prepared for the toy model."""
    rows = [{**write_clip(folder, name, count, ord(name)), "prompt": PROMPTS[name]} for name, count in clips.items()]
    out = folder / "prepared"
    prepare_helpers.run(write_manifest(folder, rows), out, **{"segment_length": SEGMENT_LENGTH, **options})
    return out


def with_image_encoder(seed: int = 0) -> LongViePipeline:
    """The toy in the layout of Wan2.1's image-to-video model: CLIP's tokens beside 512 of text."""
    plain = toy_pipeline(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = dict(plain.transformer.config) | {"image_dim": 16, "added_kv_proj_dim": 24}
        names = LongVieTransformer3DModel.__init__.__annotations__.keys() - {"return"}
        transformer = LongVieTransformer3DModel(**{name: config[name] for name in names if name in config})
        vision = CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28
        )
        vision.patch_size = 14
        pipe = LongViePipeline(
            **{name: part for name, part in plain.components.items() if name not in ("transformer", "image_encoder")}
            | {
                "image_processor": CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
            },
            transformer=transformer.eval(),
            image_encoder=CLIPVisionModel(vision).eval(),
            segment_length=SEGMENT_LENGTH,
            fps=8,
            height=32,
            width=48,
            num_inference_steps=2,
            guidance_scale=1.0,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(prepared: Path | str, out: Path | str, model: Path | None, **options: Any) -> EncodeSummary:
    """An encode job in this process, or over Ray with `workers`; on the CPU."""
    report = options.pop("report", Log())
    opened: Callable[[str], Storage] = options.pop("open_storage", open_storage)
    given: dict[str, Any] = {"workers": 0, "segments_per_shard": SHARD, **options}
    if given["workers"] != 0:
        given = {"gpus_per_worker": 0, **given}
    chosen = EncodeOptions(prepared=str(prepared), out=str(out), model=None if model is None else str(model), **given)
    return encode(chosen, report, opened)


def shards(out: Path) -> set[str]:
    """The commits of what is encoded."""
    return {f"commits/encode/{path.name}" for path in (out / "commits" / "encode").glob("[!.]*.json")}


def made(log: Log) -> list[str]:
    """The commits that a run made."""
    events = [event for event in log.of("unit") if event["made"] and event["stage"] == "encode"]
    return [f"commits/encode/{event['unit']}.json" for event in events]


def all_points(prepared: Path, out: Path, model: Path) -> list[str]:
    """Every point at which a run in one process can die, in order."""
    recorder = Recorder()
    run(prepared, out, model, open_storage=lambda uri: KillingStorage(Path(uri), recorder))
    return recorder.passed


def run_to_death(prepared: str, out: str, model: str, marks: str, points: Sequence[str]) -> None:
    """Run in this process, driver and worker in one, and die at one of the points. For a child process."""
    torch.set_num_threads(1)
    run(prepared, out, Path(model), open_storage=killing(Path(marks), points))
