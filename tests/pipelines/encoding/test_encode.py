"""What encoding promises: the tensors are those that generation builds; the folder says what it is and is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest
import torch

from longvie import conditioning
from longvie.models.encoders import encoder_fingerprint
from longvie.models.loading import TINY, load_pipeline, read_pipeline_config
from longvie.pipeline import Condition, LongViePipeline
from longvie.segments import plan_segments
from longvie.training.degradation import degrade_dense
from longvie.training.encoded import EncodedDataset, Sample
from longvie.video import read_frames, read_image
from pipelines.generation.inputs import read_rows
from pipelines.generation.plan import plan_videos
from pipelines.hashes import fingerprint
from tests.pipelines.encoding.encode_helpers import (
    NUM_SEGMENTS,
    PROMPTS,
    SEGMENT_LENGTH,
    run,
    with_image_encoder,
    write_prepared,
)
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import tree


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy-with-image-encoder")
    with_image_encoder().save_pretrained(folder)
    return folder


def conditions_of_calls(pipe: LongViePipeline, **inputs: Any) -> tuple[Condition, dict[str, Any]]:
    """What a call of the pipeline builds, and what its transformer is given at the first step."""
    seen: list[Condition] = []
    given: list[dict[str, Any]] = []
    build, forward = pipe.build_condition, pipe.transformer.forward

    def watch_build(*args: Any, **kwargs: Any) -> Condition:
        seen.append(build(*args, **kwargs))
        return seen[-1]

    def watch_forward(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs)
        return forward(*args, **kwargs)

    pipe.build_condition, pipe.transformer.forward = watch_build, watch_forward  # type: ignore[method-assign]
    try:
        pipe(**inputs, num_inference_steps=1, output_type="latent")
    finally:
        del pipe.build_condition, pipe.transformer.forward
    return seen[0], given[0]


def check_equal(dataset: EncodedDataset, sample: Sample, condition: Condition, given: dict[str, Any]) -> None:
    """A sample holds, to the bit, what the pipeline made of the same frames and text."""
    temporal, dtype = dataset.meta.temporal, dataset.meta.torch_dtype
    assert sample.video is not None
    image, dense, sparse = (
        None if first is None else first[None] for first in (sample.image, sample.dense_image, sample.sparse_image)
    )
    assert image is not None
    torch.testing.assert_close(conditioning.stack_image(image, temporal), condition.image.to(dtype), rtol=0, atol=0)
    for latents, first, name in ((sample.dense, dense, "dense"), (sample.sparse, sparse, "sparse")):
        assert latents is not None
        assert first is not None
        states = conditioning.stack_control(latents[None], first, temporal)
        torch.testing.assert_close(states, getattr(condition, name).to(dtype), rtol=0, atol=0)
        torch.testing.assert_close(states, given[f"{name}_states"].to(dtype), rtol=0, atol=0)
    assert sample.text is not None
    text = dataset.padded_text(sample.text)
    torch.testing.assert_close(text, given["encoder_hidden_states"].to(dtype), rtol=0, atol=0)
    if condition.history is None:
        assert not sample.history
    else:
        history = sample.history[8][None]
        torch.testing.assert_close(history, given["history_states"].to(dtype), rtol=0, atol=0)
    if condition.image_tokens is not None:
        assert sample.image_embeds is not None
        torch.testing.assert_close(sample.image_embeds[None], condition.image_tokens.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(("image_encoder", "dtype"), [(False, "float16"), (True, "float32"), (True, "bfloat16")])
def test_training_sees_what_generation_builds(
    prepared: Path, toy_folder: Path, image_folder: Path, tmp_path: Path, image_encoder: bool, dtype: str
) -> None:
    """Every segment of the long video, against a call of the pipeline with the frames generation would be given."""
    model = image_folder if image_encoder else toy_folder
    assert not run(prepared, tmp_path / "out", model, dtype=dtype).failed(strict=True)
    dataset = EncodedDataset(str(tmp_path / "out"))
    pipe = load_pipeline(model)
    (plan, _) = plan_videos(read_rows(str(prepared)), read_pipeline_config(model), {})
    truth = torch.from_numpy(_source(prepared, plan.video_id))
    for segment in plan_segments(plan.num_frames, plan.segment_length):
        sample = dataset[segment.index]
        first = read_image(plan.first_frame) if segment.index == 0 else truth[segment.start]
        controls = plan.controls.at(segment)
        history = truth[max(0, segment.start - 7) : segment.start + 1] if segment.index else truth[:0]
        condition, given = conditions_of_calls(
            pipe,
            image=first,
            prompt=plan.prompts[segment.index],
            dense=controls.dense,
            sparse=controls.sparse,
            history=history,
        )
        assert (sample.video_id, sample.segment, sample.num_valid) == (plan.video_id, segment.index, segment.num_valid)
        check_equal(dataset, sample, condition, given)
        assert sample.first_frame is not None
        assert torch.equal(sample.first_frame, first)
        frames = truth[segment.start : segment.start + segment.num_valid]
        frames = torch.cat([frames, frames[-1:].expand(SEGMENT_LENGTH - len(frames), -1, -1, -1)])
        video = conditioning.encode(pipe.vae, conditioning.to_pixels(frames))[0].detach()
        assert sample.video is not None
        torch.testing.assert_close(sample.video, video.to(dataset.meta.torch_dtype), rtol=0, atol=0)


def _source(prepared: Path, video_id: str) -> Any:
    """The frames of a long video as preparation saw them."""
    rows = pyarrow.parquet.read_table(prepared / "videos.parquet").to_pylist()
    (row,) = (row for row in rows if row["video_id"] == video_id)
    return read_frames(row["source"]).numpy()


def test_history_is_of_every_asked_length(prepared: Path, toy_folder: Path, tmp_path: Path) -> None:
    run(prepared, tmp_path, toy_folder, dtype="float32", history_frames=(1, 3, 9))
    dataset = EncodedDataset(str(tmp_path))
    truth, pipe = torch.from_numpy(_source(prepared, dataset[1].video_id)), load_pipeline(toy_folder)
    assert [sorted(dataset[i].history) for i in range(NUM_SEGMENTS)] == [[], [1, 3, 9], [1, 3, 9], [1, 3, 9], []]
    for count in (1, 3, 9):
        wanted = conditioning.history_states(pipe.vae, truth[17 - count : 17])
        assert wanted is not None
        torch.testing.assert_close(dataset[2].history[count], wanted[0].detach(), rtol=0, atol=0)


def test_degraded_controls(prepared: Path, toy_folder: Path, tmp_path: Path) -> None:
    """Each is drawn from seed, video, segment and its number alone, and is encoded as a control is."""
    run(prepared, tmp_path / "out", toy_folder, dtype="float32", degraded_variants=2, seed=5)
    run(prepared, tmp_path / "again", toy_folder, dtype="float32", degraded_variants=2, seed=5, segments_per_shard=4)
    dataset, again = (EncodedDataset(str(tmp_path / name)) for name in ("out", "again"))
    (plan, _) = plan_videos(read_rows(str(prepared)), read_pipeline_config(toy_folder), {})
    pipe = load_pipeline(toy_folder)
    for segment in plan_segments(plan.num_frames, plan.segment_length):
        sample = dataset[segment.index]
        dense = plan.controls.at(segment).dense
        assert dense is not None
        assert len(sample.dense_degraded) == 2
        assert not torch.equal(sample.dense_degraded[0], sample.dense_degraded[1])
        for number in range(2):
            seed = int(fingerprint([5, plan.video_id, segment.index, number])[:15], 16)
            degraded = degrade_dense(dense, torch.Generator().manual_seed(seed))
            states = conditioning.control_states(pipe.vae, degraded).detach()
            kept = (sample.dense_degraded[number], sample.dense_degraded_image[number])
            made = conditioning.stack_control(kept[0][None], kept[1][None], dataset.meta.temporal)
            torch.testing.assert_close(made, states, rtol=0, atol=0)
            assert torch.equal(again[segment.index].dense_degraded[number], kept[0])


def test_what_stands_for_nothing(encoded: Path, toy_folder: Path) -> None:
    dataset, pipe = EncodedDataset(str(encoded)), load_pipeline(toy_folder)
    black = torch.zeros(SEGMENT_LENGTH, 32, 48, 3, dtype=torch.uint8)
    grey = conditioning.encode(pipe.vae, torch.zeros_like(conditioning.to_pixels(black)))[0].detach()
    torch.testing.assert_close(dataset.empty.image, grey.half(), rtol=0, atol=0)
    condition, _ = conditions_of_calls(pipe, image=black[0], prompt="a", negative_prompt="", guidance_scale=2.0)
    assert condition.negative_prompt is not None
    torch.testing.assert_close(
        dataset.padded_text(dataset.empty.text), condition.negative_prompt.half(), rtol=0, atol=0
    )
    assert dataset.empty.image_embeds is None


def test_the_tables(encoded: Path, toy_folder: Path) -> None:
    dataset = EncodedDataset(str(encoded))
    rows = dataset.samples.to_pylist()
    places = [(row["video_id"][0], row["segment"], row["row"], row["num_valid"]) for row in rows]
    assert places == [("a", 0, 0, 9), ("a", 1, 1, 9), ("a", 2, 0, 9), ("a", 3, 1, 2), ("b", 0, 0, 9)]
    assert all(row["has_dense"] and row["has_sparse"] for row in rows)
    assert [row["num_segments"] for row in rows] == [4, 4, 4, 4, 1]
    assert [dataset[i].caption for i in range(5)] == [PROMPTS["a"]] * 4 + [PROMPTS["b"]]
    assert dataset.meta.encoder["sha256"] == encoder_fingerprint(toy_folder)
    assert pyarrow.parquet.ParquetFile(encoded / rows[0]["shard"]).num_row_groups == 2
    assert pyarrow.parquet.read_table(encoded / "errors.parquet").num_rows == 0
    top = {name for name in tree(encoded) if "/" not in name}
    assert top == {"encode.json", "empty.safetensors", "samples.parquet", "errors.parquet"}
    assert {name.split("/")[0] for name in tree(encoded)} - top == {"commits", "shards"}


def test_the_embedded_model(tmp_path: Path) -> None:
    options = {"segment_length": 17, "size": "96x64", "model": "tiny"}
    prepared = write_prepared(tmp_path, {"b": 20}, **options)
    assert not run(prepared, tmp_path / "out", None).failed(strict=True)
    dataset = EncodedDataset(str(tmp_path / "out"))
    config = json.loads((TINY / "transformer" / "config.json").read_text())
    dataset.check_model(config, encoder_fingerprint(None))
    assert dataset.meta.history_frames == (1, 5, 8, 9, 13, 16)
    assert sorted(dataset[1].history) == [1, 5, 8, 9, 13, 16]
    assert dataset[0].video is not None
    assert dataset[0].video.dtype == torch.float16


def test_memory_storage(prepared: Path, toy_folder: Path, encoded: Path) -> None:
    run(prepared, "memory://encode-test", toy_folder)
    one, other = EncodedDataset("memory://encode-test")[2], EncodedDataset(str(encoded))[2]
    assert one.video is not None
    assert other.video is not None
    assert torch.equal(one.video, other.video)


def test_object_storage(prepared: Path, toy_folder: Path, encoded: Path, bucket: str) -> None:
    """From a bucket into a bucket: the same files as from a folder into a folder."""
    store = fsspec.filesystem("s3")
    store.put(f"{prepared}/", f"{bucket}/prepared", recursive=True)
    assert not run(f"{bucket}/prepared", f"{bucket}/encoded", toy_folder).failed(strict=True)
    shard = EncodedDataset(str(encoded)).samples["shard"][2].as_py()
    assert store.cat_file(f"{bucket}/encoded/{shard}") == (encoded / shard).read_bytes()
    one, other = EncodedDataset(f"{bucket}/encoded")[2], EncodedDataset(str(encoded))[2]
    assert one.video is not None
    assert other.video is not None
    assert torch.equal(one.video, other.video)
    log = Log()
    run(f"{bucket}/prepared", f"{bucket}/encoded", toy_folder, report=log)
    assert not log.of("unit")
