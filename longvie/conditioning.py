"""From frames to what the transformer is conditioned on: first frame, controls, history, as latents.

Pure functions of a VAE and frames on its device; built once a segment. Layouts are those of the released weights,
written here for z latent channels and a mask of m channels (Wan: z = 16, m = 4, the VAE's temporal factor).
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from longvie.types import Frames, Image, VideoAutoencoder

Latents = Float[Tensor, "b z f h w"]
Pixels = Float[Tensor, "b 3 t h w"]  # [-1, 1]

_repeat_from: WeakKeyDictionary[VideoAutoencoder, int] = WeakKeyDictionary()


def to_pixels(frames: Frames) -> Pixels:
    """uint8 frames (t, h, w, 3) as one float32 video (1, 3, t, h, w): x / 127.5 - 1."""
    return rearrange(frames, "t h w c -> 1 c t h w").to(torch.float32) / 127.5 - 1


def to_frames(pixels: Pixels) -> Frames:
    """The inverse for one video: clamp to [-1, 1], round to uint8 (t, h, w, 3) on the CPU."""
    video = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(video, "c t h w -> t h w c").contiguous().cpu()


def num_latent_frames(num_frames: int, temporal_factor: int = 4) -> int:
    """How many latents a causal VAE makes of `num_frames` frames: 1 + (n - 1) // factor; a remainder is dropped."""
    return 1 + (num_frames - 1) // temporal_factor


def encode(vae: VideoAutoencoder, pixels: Pixels) -> Latents:
    """The posterior mean, normalised with the VAE's constants: (mu - mean) / std."""
    mean, std = _statistics(vae, pixels.device)
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    return (latents - mean) / std


def decode(vae: VideoAutoencoder, latents: Latents) -> Pixels:
    """The inverse of `encode`, clamped to [-1, 1] by the VAE."""
    mean, std = _statistics(vae, latents.device)
    return vae.decode((latents * std + mean).to(vae.dtype)).sample


def first_frame_mask(latents: Latents, channels: int) -> Float[Tensor, "b m f h w"]:
    """Ones at latent frame 0, zeros elsewhere, beside the given latents."""
    batch, _, frames, height, width = latents.shape
    mask = latents.new_zeros(batch, channels, frames, height, width)
    mask[:, :, 0] = 1
    return mask


def encode_first_frame(vae: VideoAutoencoder, first: Pixels, num_frames: int) -> Latents:
    """Latents of `first` (1, 3, 1, h, w) followed by zeros (mid grey), as if `num_frames` frames had been encoded.

    Past the encoder's temporal receptive field only zeros are seen, so the latents repeat: only that much is encoded.
    """
    factor = vae.config.scale_factor_temporal
    wanted = num_latent_frames(num_frames, factor)
    needed = min(wanted, repeat_from(vae, first.device) + 1)
    zeros = first.new_zeros(1, 3, factor * (needed - 1), *first.shape[3:])
    latents = encode(vae, torch.cat([first, zeros], dim=2))
    repeats = wanted - needed
    return torch.cat([latents, latents[:, :, -1:].expand(-1, -1, repeats, -1, -1)], dim=2)


@torch.no_grad()
def repeat_from(vae: VideoAutoencoder, device: torch.device | str = "cpu") -> int:
    """The index of the first latent frame that no longer sees pixel frame 0: the encoder's temporal receptive field.

    Found by encoding a NaN frame followed by zeros at the smallest size: NaN reaches every latent whose receptive
    field holds it, whatever the weights. Wan's VAE: 29, so that only segments of more than 117 frames gain.

    Args:
        device: where the VAE works; an offloaded one has its weights elsewhere until it is called.
    """
    if vae not in _repeat_from:
        side, factor = 2 * vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
        for num_latents in (16, 32, 64, 128):
            probe = torch.zeros(1, 3, 1 + factor * (num_latents - 1), side, side, dtype=vae.dtype, device=device)
            probe[:, :, 0] = torch.nan
            clean = ~vae.encode(probe).latent_dist.mode().isnan().any(dim=(0, 1, 3, 4))
            if clean.any():
                _repeat_from[vae] = int(clean.int().argmax())
                break
        else:
            raise ValueError(f"{type(vae).__name__} sees frame 0 for more than 509 frames; it is not a causal VAE")
    return _repeat_from[vae]


def image_states(vae: VideoAutoencoder, image: Image, num_frames: int) -> Float[Tensor, "1 zm f h w"]:
    """The image-to-video condition of the base model, (1, m + z, F, H, W): mask, first-frame latents."""
    latents = encode_first_frame(vae, to_pixels(image[None]), num_frames)
    return stack_image(latents, vae.config.scale_factor_temporal)


def control_states(vae: VideoAutoencoder, frames: Frames) -> Float[Tensor, "1 zmz f h w"]:
    """A control as the transformer takes it, (1, 2z + m, F, H, W): video latents, mask, first-frame latents."""
    pixels = to_pixels(frames)
    latents = encode(vae, pixels)
    first = encode_first_frame(vae, pixels[:, :, :1], frames.shape[0])
    return stack_control(latents, first, vae.config.scale_factor_temporal)


def stack_image(first: Latents, mask_channels: int) -> Float[Tensor, "b zm f h w"]:
    """The image-to-video condition of latents of a first frame followed by grey: mask, then they."""
    return torch.cat([first_frame_mask(first, mask_channels), first], dim=1)


def with_first_latent(latents: Latents, image: Latents) -> Latents:
    """Latents whose frame 0 is that of `image`, latents of a first frame and whatever follows."""
    return torch.cat([image[:, :, :1].to(latents), latents[:, :, 1:]], dim=2)


def stack_control(latents: Latents, first: Latents, mask_channels: int) -> Float[Tensor, "b zmz f h w"]:
    """A control of its latents and of those of its first frame followed by grey, with the mask between."""
    return torch.cat([latents, first_frame_mask(latents, mask_channels), first], dim=1)


def history_states(vae: VideoAutoencoder, history: Frames) -> Latents | None:
    """Clean latents of the last frames made, (1, z, FH, H, W); None at the start.

    The causal VAE takes 1 + 4*((n-1)//4) frames: of 8 it makes 2 latents from the first 5 and drops the last three,
    which is what the released weights were trained with.
    """
    if len(history) == 0:
        return None
    factor = vae.config.scale_factor_temporal
    used = 1 + factor * ((len(history) - 1) // factor)
    return encode(vae, to_pixels(history[:used]))


def _statistics(vae: VideoAutoencoder, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
