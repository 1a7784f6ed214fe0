"""Several folders of encoded data as one training set, each with its share of the samples that training sees.

What a step sees stays a function of (seed, step): sample n of the endless stream belongs to the dataset that has fallen
behind its share, and is that dataset's next, each in epochs of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from longvie.training.encoded import Empty, EncodedDataset, Sample
from longvie.training.encoded_layout import EncodedError, EncodedMeta
from longvie.training.order import sample_at

_FREE = ("segments_per_shard", "degraded_variants", "seed")  # may differ between datasets


class EncodedMixture:
    """The samples of all datasets, one after the other.

    Args:
        datasets: at least one; encoded by the same encoders at the same size.
        shares: how often samples of each are seen, in any unit; None: as many as each has.

    Raises:
        EncodedError: two of them do not fit together.
    """

    def __init__(self, datasets: Sequence[EncodedDataset], shares: Sequence[float] | None = None) -> None:
        self.datasets = tuple(datasets)
        first = self.datasets[0]
        for other in self.datasets[1:]:
            wrong = _differences(first.meta, other.meta)
            if wrong:
                raise EncodedError(
                    f"{other.uri} has other {', '.join(wrong)} than {first.uri}; encode both with the same model and "
                    "flags"
                )
        weights = [len(one) for one in self.datasets] if shares is None else list(shares)
        self._shares = [Fraction(weight).limit_denominator(10**6) for weight in weights]
        self._starts = [sum(len(one) for one in self.datasets[:k]) for k in range(len(self.datasets))]

    @property
    def shares(self) -> list[float]:
        """Of the samples that training sees, those of each dataset; they sum to 1."""
        return [float(share / sum(self._shares)) for share in self._shares]

    @property
    def uri(self) -> str:
        return " + ".join(one.uri for one in self.datasets)

    @property
    def meta(self) -> EncodedMeta:
        """Of the first; the others differ in nothing that a model sees."""
        return self.datasets[0].meta

    @property
    def empty(self) -> Empty:
        return self.datasets[0].empty

    @cached_property
    def fingerprint(self) -> str:
        """Of a single dataset its own."""
        if len(self.datasets) == 1:
            return self.datasets[0].fingerprint
        said = [f"{one.fingerprint} {share}" for one, share in zip(self.datasets, self._shares, strict=True)]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(len(one) for one in self.datasets)

    def __getitem__(self, index: int) -> Sample:
        which = self.dataset_of(index)
        return self.datasets[which][index - self._starts[which]]

    def dataset_of(self, index: int) -> int:
        """The number of the dataset that a sample is of."""
        return max(k for k, start in enumerate(self._starts) if start <= index)

    def place(self, index: int) -> Mapping[str, Any]:
        """video_id, segment, num_segments and what controls there are (`has_dense`, `has_sparse`), unread."""
        return self._places[index]

    @cached_property
    def _places(self) -> list[dict[str, Any]]:
        names = ["video_id", "segment", "num_segments", "has_dense", "has_sparse"]
        return [row for one in self.datasets for row in one.samples.select(names).to_pylist()]

    def rows(self, which: int) -> range:
        """The samples of one dataset, by their numbers here."""
        return range(self._starts[which], self._starts[which] + len(self.datasets[which]))

    def batch_at(self, seed: int, step: int, batch: int) -> list[int]:
        """The samples of a step's global batch, in order: a function of the seed and the step alone."""
        return [self._sample_at(seed, step * batch + k) for k in range(batch)]

    def padded_text(self, text: Float[Tensor, "tokens text_dim"]) -> Float[Tensor, "1 padded text_dim"]:
        return self.datasets[0].padded_text(text)

    def check_model(self, transformer_config: Mapping[str, Any], encoders: str | None = None) -> None:
        """As `EncodedDataset.check_model`, of all."""
        for one in self.datasets:
            one.check_model(transformer_config, encoders)

    def _sample_at(self, seed: int, position: int) -> int:
        which, position = locate(position, self._shares)
        return self._starts[which] + sample_at(seed, position, len(self.datasets[which]))


def locate(position: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Which of several streams an item of their mixture is of, and its position there.

    Of the first n items floor(n * share) are of the first stream, wherever one stops; of the rest likewise, and so on.
    """
    for which in range(len(shares) - 1):
        share = shares[which] / sum(shares[which:])
        before = int(position * share)  # rounds down
        if int((position + 1) * share) > before:
            return which, before
        position -= before
    return len(shares) - 1, position


def _differences(one: EncodedMeta, other: EncodedMeta) -> list[str]:
    ours, theirs = ({**asdict(meta), "encoder": meta.encoder["sha256"]} for meta in (one, other))
    return [name for name, value in ours.items() if name not in _FREE and theirs[name] != value]
