"""Encodes one segment of training data, with the functions that generation builds its conditions with.

A plain function of frames and text; reading them and keeping what comes out is pipelines/encoding's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from longvie import conditioning
from longvie.pipeline import LongViePipeline
from longvie.training.encoded_layout import META, EncodedMeta
from longvie.types import Frames, Image

GREY = 127.5  # pixels of value 0 in [-1, 1], as conditioning.py means by grey


class SegmentEncoder:
    """The encoders of a pipeline, for segments as `meta` describes them; results are on the CPU, float32 or theirs."""

    def __init__(self, pipe: LongViePipeline, meta: EncodedMeta) -> None:
        self._pipe, self._meta = pipe, meta
        self._device = pipe._execution_device

    @torch.no_grad()
    def segment(
        self,
        frames: Frames,
        history: Frames,
        dense: Frames | None,
        sparse: Frames | None,
        caption: str,
        degraded: Sequence[Frames] = (),
    ) -> dict[str, Tensor]:
        """All tensor columns of a row that exist, without a batch axis.

        Args:
            frames, dense, sparse: (segment_length, h, w, 3).
            degraded: variants of the dense control, of its shape.
            history: the frames before the segment's second one, the last being its first; none for a first segment.
        """
        made = {"video": self._latents(frames), "image": self._image(frames[0])}
        for name, control in (("dense", dense), ("sparse", sparse)):
            if control is not None:
                made |= {name: self._latents(control), f"{name}_image": self._image(control[0])}
        for number, control in enumerate(degraded):
            made[f"dense_degraded_{number}"] = self._latents(control)
            made[f"dense_degraded_image_{number}"] = self._image(control[0])
        for count in self._meta.history_frames:
            if len(history) >= count:
                past = conditioning.history_states(self._pipe.vae, history[-count:].to(self._device))
                made[f"history_{count}"] = cast(Tensor, past)[0].cpu()
        made["text"] = self.text(caption)
        made |= self._image_embeds(frames[0])
        for name, shape in self._meta.columns().items():
            if name in made and not _fits(made[name], shape):
                raise RuntimeError(f"{name} has shape {tuple(made[name].shape)}; {META} says {shape}")
        return made

    @torch.no_grad()
    def empty(self) -> Mapping[str, Tensor]:
        """`text` of the empty prompt, `image` latents of grey alone, `image_embeds` of a grey image."""
        meta = self._meta
        grey = torch.zeros(1, 3, 1, meta.height, meta.width, device=self._device)
        latents = conditioning.encode_first_frame(self._pipe.vae, grey, meta.segment_length)
        picture = torch.full((meta.height, meta.width, 3), round(GREY), dtype=torch.uint8)
        return {"text": self.text(""), "image": latents[0].cpu(), **self._image_embeds(picture)}

    def text(self, caption: str) -> Float[Tensor, "tokens text_dim"]:
        """A prompt's own rows: those that pad it to the model's length are zero, and are left out."""
        embeds, _ = self._pipe.encode_prompt(
            prompt=caption,
            do_classifier_free_guidance=False,
            max_sequence_length=self._meta.max_text_tokens,
            device=self._device,
        )
        used = embeds[0].ne(0).any(dim=1).nonzero()
        return embeds[0, : int(used.max()) + 1 if len(used) else 0].cpu()

    def _latents(self, frames: Frames) -> Tensor:
        return conditioning.encode(self._pipe.vae, conditioning.to_pixels(frames.to(self._device)))[0].cpu()

    def _image(self, image: Image) -> Tensor:
        pixels = conditioning.to_pixels(image[None].to(self._device))
        return conditioning.encode_first_frame(self._pipe.vae, pixels, self._meta.segment_length)[0].cpu()

    def _image_embeds(self, image: Image) -> dict[str, Tensor]:
        if self._meta.image_dim is None:
            return {}
        return {"image_embeds": self._pipe.encode_image(PILImage.fromarray(image.numpy()), self._device)[0].cpu()}


def _fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tensor.ndim == len(shape) and all(b in (-1, a) for a, b in zip(tensor.shape, shape, strict=True))
