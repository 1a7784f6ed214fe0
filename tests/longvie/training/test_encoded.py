"""The reader of encoded data: bytes to tensors and back, one sample at a time, and what it refuses."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from longvie.config import wan2_1_i2v_14b
from longvie.training.encoded import EncodedDataset
from longvie.training.encoded_layout import (
    DTYPES,
    SAMPLE_ROWS,
    EncodedError,
    EncodedMeta,
    LatentShape,
    bytes_tensor,
    stored,
    tensor_bytes,
)

META = EncodedMeta(
    encoder={"sha256": "e" * 64, "dtype": "float32", "device": "cpu", "threads": 1},
    height=16,
    width=32,
    fps=8.0,
    segment_length=9,
    latent=LatentShape(channels=4, frames=3, height=2, width=4),
    temporal=4,
    text_dim=8,
    max_text_tokens=6,
    image_dim=5,
    image_tokens=7,
    history_frames=(1, 5, 8),
    dtype="float16",
    segments_per_shard=2,
    degraded_variants=2,
    seed=3,
)


def tensors_of(seed: int, *absent: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(3 if side < 0 else side for side in shape) for name, shape in META.columns().items()}
    made = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
    return {name: tensor for name, tensor in made.items() if name not in absent}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 32, 3), np.uint8)


def write(folder: Path, meta: EncodedMeta = META) -> Path:
    """Three samples in two shards: the first without history, the last without sparse control."""
    (folder / "shards").mkdir(parents=True)
    (folder / "encode.json").write_text(json.dumps({**meta.to_json(), "fingerprint": "f" * 64}))
    save_file({"text": torch.zeros(1, 8).half(), "image": torch.ones(4, 3, 2, 4).half()}, folder / "empty.safetensors")
    absent = [("history_1", "history_5", "history_8"), (), ("sparse", "sparse_image")]
    samples = []
    for shard, indices in (("shards/a-00000.parquet", (0, 1)), ("shards/a-00001.parquet", (2,))):
        with pyarrow.parquet.ParquetWriter(folder / shard, meta.schema()) as writer:
            for row, index in enumerate(indices):
                place = {"video_id": "a", "segment": index, "num_segments": 3, "num_valid": 9 - index}
                png = io.BytesIO()
                Image.fromarray(picture(index)).save(png, "PNG")
                tensors = {
                    name: tensor_bytes(tensor, meta.torch_dtype)
                    for name, tensor in tensors_of(index, *absent[index]).items()
                }
                content = {**place, "caption": f"caption {index}", "first_frame": png.getvalue(), **tensors}
                writer.write_table(pa.Table.from_pylist([content], meta.schema()))
                samples.append({"shard": shard, "row": row, "has_dense": True, "has_sparse": index != 2, **place})
    pyarrow.parquet.write_table(pa.Table.from_pylist(samples, SAMPLE_ROWS), folder / "samples.parquet")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("encoded") / "data")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    dtype=st.sampled_from(sorted(DTYPES)),
    seed=st.integers(0, 99),
)
def test_bytes_and_back(shape: list[int], dtype: str, seed: int) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DTYPES[dtype])
    data = tensor_bytes(tensor, DTYPES[dtype])
    assert len(data) == tensor.numel() * tensor.itemsize
    assert torch.equal(bytes_tensor(data, DTYPES[dtype], tuple(shape)), tensor)
    assert torch.equal(bytes_tensor(data, DTYPES[dtype], (-1, *shape[1:])), tensor)


def test_bytes_are_little_endian() -> None:
    assert tensor_bytes(torch.tensor([1.0, -2.0]), torch.float16) == np.array([1.0, -2.0], "<f2").tobytes()
    assert tensor_bytes(torch.tensor([1.0]), torch.bfloat16) == b"\x80\x3f"


@pytest.mark.parametrize(
    ("value", "message"), [(1e6, "do not fit float16; give --dtype"), (float("nan"), "are not numbers")]
)
def test_what_cannot_be_kept(value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stored(torch.tensor([value]), torch.float16)


def test_samples(folder: Path) -> None:
    dataset = EncodedDataset(str(folder))
    assert len(dataset) == 3
    for index in range(3):
        sample, wanted = dataset[index], tensors_of(index)
        assert (sample.index, sample.video_id, sample.segment, sample.num_segments) == (index, "a", index, 3)
        assert (sample.num_valid, sample.caption) == (9 - index, f"caption {index}")
        names = {"video", "dense", "sparse", "image", "dense_image", "sparse_image", "text", "image_embeds"}
        for name in names - ({"sparse", "sparse_image"} if index == 2 else set()):
            assert torch.equal(getattr(sample, name), wanted[name]), name
        assert {n: tensor.shape[1] for n, tensor in sample.history.items()} == (
            {} if index == 0 else {1: 1, 5: 2, 8: 2}
        )
        for kind in ("dense_degraded", "dense_degraded_image"):
            assert len(getattr(sample, kind)) == 2
            assert all(torch.equal(t, wanted[f"{kind}_{k}"]) for k, t in enumerate(getattr(sample, kind)))
        for count, tensor in sample.history.items():
            assert torch.equal(tensor, wanted[f"history_{count}"])
        assert sample.first_frame is not None
        assert np.array_equal(sample.first_frame.numpy(), picture(index))
    assert dataset[2].sparse is None
    assert dataset[2].sparse_image is None
    assert dataset[-1].index == 2
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]


def test_tensors_may_be_written_to(folder: Path) -> None:
    video = EncodedDataset(str(folder))[0].video
    assert video is not None
    video += 1


def test_only_what_is_asked_for_is_read(folder: Path) -> None:
    dataset = EncodedDataset(str(folder), columns=("video", "history_5"))
    sample = dataset[1]
    assert sample.video is not None
    assert list(sample.history) == [5]
    assert sample.dense is sample.text is sample.first_frame is None
    with pytest.raises(EncodedError, match=r"has no column depth; it has dense, .*, video"):
        EncodedDataset(str(folder), columns=("depth",))


def test_what_stands_for_nothing(folder: Path) -> None:
    dataset = EncodedDataset(str(folder))
    assert torch.equal(dataset.empty.image, torch.ones(4, 3, 2, 4).half())
    assert dataset.empty.image_embeds is None
    padded = dataset.padded_text(torch.ones(2, 8).half())
    assert padded.shape == (1, 6, 8)
    assert padded.sum() == 16


def test_it_travels_to_other_processes_and_other_places(folder: Path) -> None:
    dataset = pickle.loads(pickle.dumps(EncodedDataset(str(folder))))
    fsspec.filesystem("memory").put(f"{folder}/", "/encoded-test", recursive=True)
    there = EncodedDataset("memory://encoded-test/")
    for one in (dataset, there):
        video = one[1].video
        assert video is not None
        assert torch.equal(video, tensors_of(1)["video"])


def test_meta_survives_json() -> None:
    assert EncodedMeta.from_json(json.loads(json.dumps(META.to_json()))) == META


def model(**changes: Any) -> dict[str, Any]:
    return {"in_channels": 12, "out_channels": 4, "text_dim": 8, "image_dim": 5, "patch_size": (1, 2, 2), **changes}


def test_a_model_that_fits(folder: Path) -> None:
    EncodedDataset(str(folder)).check_model(model(), "e" * 64)


@pytest.mark.parametrize(
    ("config", "encoders", "message"),
    [
        (model(in_channels=36), None, "in_channels 36 where the data needs 12"),
        (model(text_dim=9), None, "text_dim 9 where the data needs 8"),
        (model(image_dim=None), None, "image_dim None where the data needs 5"),
        (model(patch_size=(1, 4, 4)), None, r"patch_size \(1, 4, 4\) where latents are \(3, 2, 4\)"),
        (model(), "d" * 64, "encoders dddddddddddd where the data was made by eeeeeeeeeeee"),
        (wan2_1_i2v_14b(), None, "in_channels 36 .*; out_channels 16 .*; text_dim 4096 .*; image_dim 1280 "),
    ],
)
def test_a_model_that_does_not_fit(folder: Path, config: dict[str, Any], encoders: str | None, message: str) -> None:
    with pytest.raises(EncodedError, match=message) as caught:
        EncodedDataset(str(folder)).check_model(config, encoders)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("encode.json", None, "has no encode.json; give a folder that longvie encode finished"),
        ("encode.json", b"{", "encode.json is not a JSON file"),
        ("encode.json", b'{"format": 0}', "encode.json was not written by this version of longvie"),
        ("samples.parquet", None, "has no samples.parquet; .* same command again goes on"),
        ("samples.parquet", b"PAR1", "samples.parquet is not a Parquet file"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    folder = write(tmp_path / "data")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(EncodedError, match=message):
        EncodedDataset(str(folder))


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (b"PAR1", "cannot be read")])
def test_a_broken_shard(tmp_path: Path, content: bytes | None, message: str) -> None:
    folder = write(tmp_path / "data")
    shard = folder / "shards" / "a-00001.parquet"
    shard.unlink() if content is None else shard.write_bytes(content)
    dataset = EncodedDataset(str(folder))
    assert dataset[1].video is not None
    with pytest.raises(EncodedError, match=f"a-00001.parquet {message}.*; encode again"):
        dataset[2]


def test_shards_that_are_not_what_the_table_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / "shards" / "a-00001.parquet").write_bytes((folder / "shards" / "a-00000.parquet").read_bytes())
    with pytest.raises(EncodedError, match="holds another sample"):
        EncodedDataset(str(folder))[2]


def test_no_sample(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    pyarrow.parquet.write_table(SAMPLE_ROWS.empty_table(), folder / "samples.parquet")
    with pytest.raises(EncodedError, match="holds no sample"):
        EncodedDataset(str(folder))


def test_columns_of_a_model_without_an_image_encoder() -> None:
    plain = dataclasses.replace(META, image_dim=None, image_tokens=0)
    assert set(META.columns()) - set(plain.columns()) == {"image_embeds"}
    field = plain.schema().field("video")
    assert json.loads(field.metadata[b"shape"]) == [4, 3, 2, 4]
    assert field.metadata[b"dtype"] == b"float16"
    assert field.type == pa.binary(4 * 3 * 2 * 4 * 2)
