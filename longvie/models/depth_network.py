"""`DepthNetwork`: the built-in monocular depth estimator's weights and forward; about 1.9 M parameters.

A convolutional pyramid down to 1/16 of the size, a few transformer blocks there to see the whole frame, and a light
decoder up to half the size. Frames are independent: nothing is normalised over a frame or a batch in evaluation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

STRIDE = 16  # sides must be multiples of it
PIXEL_MEAN, PIXEL_STD = 0.45, 0.25  # of RGB in [0, 1]; ours


class _Convolution(nn.Sequential):
    """3x3 convolution, batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))

    def fold(self) -> None:
        """Make one convolution of both, as evaluation allows."""
        convolution, norm = self
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        self[0], self[1] = nn.utils.fuse_conv_bn_eval(convolution, norm), nn.Identity()


class _Residual(nn.Module):
    """He et al. 2016, the basic block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Convolution(channels, channels), _Convolution(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.relu(x + self.second(F.relu(self.first(x))))


class _Attention(nn.Module):
    """A pre-norm transformer block over all positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(rearrange(attended, "b h n d -> b n (h d)"))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class _Merge(nn.Module):
    """Double the coarse map's size, add the finer one, and look at both once."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.reduce, self.look = nn.Conv2d(coarse, fine, 1), _Convolution(fine, fine)

    def forward(self, coarse: Float[Tensor, "b c h w"], fine: Float[Tensor, "b d hh ww"]) -> Float[Tensor, "b d hh ww"]:
        up = F.interpolate(self.reduce(coarse), scale_factor=2, mode="bilinear", align_corners=False)
        return F.relu(self.look(up + fine))


class DepthNetwork(nn.Module):
    """Frames in [0, 1] to disparity at half their size.

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the size.
        num_blocks: transformer blocks at 1/16.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (24, 48, 96, 144), num_blocks: int = 4) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = widths
        self.stem = _Convolution(5, half, stride=2)  # RGB and the position
        self.quarter = nn.Sequential(_Convolution(half, quarter, stride=2), nn.ReLU(), _Residual(quarter))
        self.eighth = nn.Sequential(
            _Convolution(quarter, eighth, stride=2), nn.ReLU(), _Residual(eighth), _Residual(eighth)
        )
        self.sixteenth = nn.Sequential(_Convolution(eighth, sixteenth, stride=2), nn.ReLU(), _Residual(sixteenth))
        self.position = nn.Linear(2, sixteenth)
        self.blocks = nn.ModuleList([_Attention(sixteenth, heads=4) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(sixteenth)
        self.to_eighth, self.to_quarter = _Merge(sixteenth, eighth), _Merge(eighth, quarter)
        self.to_half = _Merge(quarter, half)
        self.head = nn.Conv2d(half, 1, 3, padding=1)

    def fold(self) -> None:
        """Fold all batch normalisations into their convolutions: the same function, faster; for evaluation only."""
        for module in list(self.modules()):
            if isinstance(module, _Convolution):
                module.fold()

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b hh ww"]:
        """Disparity (large is near, about 0 in the sky, about 1 on what is nearest), (b, h/2, w/2).

        Not clamped: a little below 0 happens. h and w are multiples of 16.
        """
        place = _positions(*frames.shape[2:]).to(frames)
        pixels = torch.cat([(frames - PIXEL_MEAN) / PIXEL_STD, place.expand(len(frames), -1, -1, -1)], dim=1)
        half = F.relu(self.stem(pixels.contiguous(memory_format=torch.channels_last)))
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        coarse = self.sixteenth(eighth)
        height, width = coarse.shape[2:]
        tokens = rearrange(coarse, "b c h w -> b (h w) c")
        tokens = tokens + self.position(rearrange(_positions(height, width).to(frames), "1 c h w -> 1 (h w) c"))
        for block in self.blocks:
            tokens = block(tokens)
        coarse = coarse + rearrange(self.norm(tokens), "b (h w) c -> b c h w", h=height)
        return self.head(self.to_half(self.to_quarter(self.to_eighth(coarse, eighth), quarter), half))[:, 0]


def _positions(height: int, width: int) -> Float[Tensor, "1 2 h w"]:
    """Row and column from -1 to 1 at pixel centres."""
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]
