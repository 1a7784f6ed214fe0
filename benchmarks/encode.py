"""What the short encode of "one frame, then zeros" saves, of which each segment needs three. CPU, one thread.

    python benchmarks/encode.py [--frames 17 81 161] [--side 32] [--base-dim 8] [--repeats 3]

Full: the frame and all zeros are encoded, as the release does. Short: as many as the VAE's temporal receptive field,
the last latent repeated. Wan's VAE is measured with its own depth and random, narrower weights (`--base-dim`, 96 as
released): what repeats from where depends on the architecture alone. The embedded model's VAE is measured as it is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan

from longvie import conditioning
from longvie.models.loading import load_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[17, 81, 161], help="of a segment")
    parser.add_argument("--side", type=int, default=32, help="pixels, height and width")
    parser.add_argument("--base-dim", type=int, default=8, help="width of Wan's VAE")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vaes = {"Wan": AutoencoderKLWan(base_dim=arguments.base_dim).eval(), "embedded": load_pipeline().vae}
    for name, vae in vaes.items():
        print(f"{name}: latents repeat from {conditioning.repeat_from(vae)} on")
        for num_frames in arguments.frames:
            measure(name, vae, num_frames, arguments.side, arguments.repeats)


@torch.no_grad()
def measure(name: str, vae: AutoencoderKLWan, num_frames: int, side: int, repeats: int) -> None:
    first = torch.rand(1, 3, 1, side, side) * 2 - 1
    zeros = torch.zeros(1, 3, num_frames - 1, side, side)
    long, full = timed(lambda: conditioning.encode(vae, torch.cat([first, zeros], dim=2)), repeats)
    short, cheap = timed(lambda: conditioning.encode_first_frame(vae, first, num_frames), repeats)
    print(
        f"{name}, {num_frames} frames: full {long * 1e3:.1f} ms, short {short * 1e3:.1f} ms ({long / short:.1f}x); "
        f"greatest difference {(full - cheap).abs().max():.1e}"
    )


def timed(encode: Callable[[], torch.Tensor], repeats: int) -> tuple[float, torch.Tensor]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        latents = encode()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), latents


if __name__ == "__main__":
    main()
