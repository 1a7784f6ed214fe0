"""Looks into an uploaded file in a process of its own, within bounds: `python -m serve.probe KIND PATH`.

Decoders are large and take what strangers send. So they run where a crash, a hang or a gigabyte costs one request: a
child with limits on CPU seconds, address space and files, and no word of the server's memory. Every frame is decoded
once; what passes here, the engine can read.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.errors import ApiError, invalid
from serve.settings import Limits

_REMEMBERED = 256  # probes
_WALL_FACTOR = 3  # a busy machine gives a process less than a CPU


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What an upload is. An image has one frame and no rate; `resampled` counts frames at the model's rate."""

    height: int
    width: int
    num_frames: int
    resampled: int


class Prober:
    """Probes files, and remembers the last ones by their content: the same image a hundred times is decoded once."""

    def __init__(self, fps: float, limits: Limits) -> None:
        self._fps = fps
        self._limits = limits
        self._known: dict[tuple[str, str], Probed] = {}

    def probe(self, param: str, kind: str, path: Callable[[], Path], sha256: str) -> Probed:
        """As the function `probe`; `sha256` is the file's, `path` says where it lies if it must be read."""
        known = self._known.get((kind, sha256))
        if known is None:
            known = probe(param, kind, path(), self._fps, self._limits)
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)), None)
            self._known[kind, sha256] = known
        return known


def probe(param: str, kind: str, path: Path, fps: float, limits: Limits) -> Probed:
    """Decode a file in a bounded child. 422 naming the field if it is not what it should be, or too much.

    Args:
        kind: `image` or `video`.
    """
    bounds = json.dumps(
        {
            "cpu": limits.probe_seconds,
            "bytes": limits.probe_bytes,
            "pixels": limits.upload_pixels,
            "seconds": limits.seconds,
            "fps": fps,
        }
    )
    command = [sys.executable, "-m", "serve.probe", kind, str(path), bounds]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            timeout=limits.probe_seconds * _WALL_FACTOR,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise invalid(param, f"{param} takes too long to decode", "unreadable_media") from error
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:  # it was killed, by its limits or by what it read
        raise invalid(param, f"{param} cannot be decoded within bounds", "unreadable_media") from error
    if "error" in said:
        raise invalid(param, f"{param} {said['error']}", said["code"])
    if done.returncode:
        raise ApiError(500, "probe_failed", f"{param} could not be looked into", param)
    return Probed(**said)


def _main(kind: str, path: str, bounds: dict[str, Any]) -> dict[str, Any]:
    for limit, most in (
        (resource.RLIMIT_CPU, int(bounds["cpu"]) + 1),
        (resource.RLIMIT_AS, bounds["bytes"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    from longvie.media import VideoError, num_resampled, probe_video, read_image
    from longvie.media.container import decoded, open_video

    try:
        if kind == "image":
            height, width = read_image(path).shape[:2]
            if height * width > bounds["pixels"]:
                return _too(f"is {width}x{height}; at most {bounds['pixels']:,} pixels are taken")
            return {"height": height, "width": width, "num_frames": 1, "resampled": 1}
        with open_video(path, path) as (_, stream):
            if stream.width * stream.height > bounds["pixels"]:
                return _too(f"is {stream.width}x{stream.height}; at most {bounds['pixels']:,} pixels are taken")
        info = probe_video(path)
        resampled = num_resampled(info, bounds["fps"])
        if resampled > bounds["seconds"] * bounds["fps"] + 1:
            return _too(f"is longer than {bounds['seconds']:g} seconds", "too_long")
        with open_video(path, path) as (container, stream):
            for _ in decoded(path, container, stream):
                pass
    except VideoError as error:
        return {"code": "unreadable_media", "error": str(error).replace(path, "").strip()}
    except (OSError, MemoryError, ValueError) as error:
        return {"code": "unreadable_media", "error": f"cannot be decoded ({type(error).__name__})"}
    return {"height": info.height, "width": info.width, "num_frames": info.num_frames, "resampled": resampled}


def _too(error: str, code: str = "too_large") -> dict[str, Any]:
    return {"code": code, "error": error}


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
