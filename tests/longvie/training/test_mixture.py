"""Several datasets as one: every sample as often as its share says, whatever the worker and wherever one looks."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longvie.training.encoded import EncodedDataset
from longvie.training.encoded_layout import META, EncodedError
from longvie.training.mixture import EncodedMixture, locate
from tests.encoded import write_encoded
from tests.toy import toy_pipeline


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[EncodedDataset]:
    """Of six and of four samples."""
    folder = tmp_path_factory.mktemp("encoded")
    return [
        EncodedDataset(str(write_encoded(folder / f"{videos}", toy_pipeline(), "toy", videos=videos)))
        for videos in (3, 2)
    ]


@given(st.lists(st.fractions(Fraction(1, 50), 50, max_denominator=50), min_size=1, max_size=4), st.integers(1, 300))
def test_streams_are_taken_in_order_and_none_is_ever_far_from_its_share(shares: list[Fraction], count: int) -> None:
    seen = [locate(n, shares) for n in range(count)]
    for which, share in enumerate(shares):
        own = [position for stream, position in seen if stream == which]
        assert own == list(range(len(own))), "each stream's items once, in order"
        assert abs(len(own) - count * share / sum(shares)) <= which + 1


def test_shares_decide_how_often_samples_are_seen(parts: list[EncodedDataset]) -> None:
    data = EncodedMixture(parts, (3, 1))
    assert data.shares == [0.75, 0.25]
    drawn = [index for step in range(20) for index in data.batch_at(0, step, 4)]
    assert sum(index < 6 for index in drawn) == 60
    first = [index for index in drawn if index < 6][:6]
    assert sorted(first) == list(range(6)), "each of a dataset's own epochs has all of its samples"
    assert drawn == [index for step in range(20) for index in data.batch_at(0, step, 4)]
    assert drawn != [index for step in range(20) for index in data.batch_at(1, step, 4)]
    even = EncodedMixture(parts)
    assert sum(index < 6 for step in range(25) for index in even.batch_at(0, step, 4)) == 60, "by their number: 6 of 10"


def test_one_dataset_is_what_it_was(parts: list[EncodedDataset]) -> None:
    data = EncodedMixture(parts[:1])
    assert data.fingerprint == parts[0].fingerprint
    assert len(data) == len(parts[0])
    assert torch.equal(data[3].video, parts[0][3].video)  # type: ignore[arg-type]


def test_samples_are_numbered_through(parts: list[EncodedDataset]) -> None:
    data = EncodedMixture(parts, (1, 1))
    assert len(data) == 10
    assert data.fingerprint not in {one.fingerprint for one in parts}
    assert data.fingerprint != EncodedMixture(parts, (1, 2)).fingerprint
    for index, (part, row) in enumerate([(0, k) for k in range(6)] + [(1, k) for k in range(4)]):
        assert data.dataset_of(index) == part
        assert index in data.rows(part)
        expected = parts[part][row]
        assert torch.equal(data[index].video, expected.video)  # type: ignore[arg-type]
        assert (data.place(index)["video_id"], data.place(index)["segment"]) == (expected.video_id, expected.segment)


def test_data_of_two_kinds_is_refused(parts: list[EncodedDataset], tmp_path: Path) -> None:
    other = write_encoded(tmp_path / "other", toy_pipeline(), "toy")
    said = json.loads((other / META).read_text())
    (other / META).write_text(json.dumps({**said, "fps": 16.0}))
    with pytest.raises(EncodedError, match=r"other has other fps than .*encode both"):
        EncodedMixture([parts[0], EncodedDataset(str(other))])
