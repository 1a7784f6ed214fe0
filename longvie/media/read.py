"""Frames of a video by their number, exactly, in flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import decord
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.media.container import av_errors, decoded, open_video
from longvie.media.files import VideoError
from longvie.media.index import VideoIndex, VideoInfo, index_video, open_decord

SEEK_BEYOND = 48  # frames; decoding over a shorter gap is faster than seeking


class Video:
    """An opened source: its `uri`, `info`, the time of each frame, and frames by number.

    Frames come from PyAV, one after the other, or by seeking to the key frame before; or from decord where the video is
    small and asked for by number. Both give the same bytes.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = uri
        self._index = index_video(uri)
        self._stream = _Stream(uri, self._index)
        self._decord = None

    @property
    def info(self) -> VideoInfo:
        return self._index.info

    @property
    def times(self) -> Float[ndarray, " n"]:
        """When each frame appears, seconds from the first."""
        return self._index.times

    def read(self, indices: Sequence[int]) -> UInt8[ndarray, "n h w 3"]:
        """The frames with these numbers, in any order."""
        count = self.info.num_frames
        wrong = [index for index in indices if not 0 <= index < count]
        if wrong:
            raise VideoError(f"{self.uri} has {count} frames; frame {wrong[0]} was asked for")
        if not len(indices):
            return np.empty((0, self.info.height, self.info.width, 3), np.uint8)
        if self.info.decoder == "decord":
            try:
                self._decord = self._decord or open_decord(self._index.path, count)
                if self._decord is not None:
                    return self._decord.get_batch(list(indices)).asnumpy()
            except decord.DECORDError:  # broken data, or rows that decord cannot copy; PyAV will tell
                self._decord = None
        return np.stack(list(self.frames(indices)))

    def frames(self, indices: Iterable[int]) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """The frames with these numbers, one at a time; fast where the numbers increase."""
        for index in indices:
            yield self._stream.picture(int(index))


class _Stream:
    """Decodes forward with PyAV and knows which frame comes next."""

    def __init__(self, uri: str | Path, index: VideoIndex) -> None:
        self._uri = uri
        self._index = index
        self._reformatter = VideoReformatter()
        self._run: Iterator[tuple[int, VideoFrame]] | None = None
        self._next = 0
        self._picture: tuple[int, np.ndarray] | None = None

    def picture(self, number: int) -> UInt8[ndarray, "h w 3"]:
        if self._picture is not None and self._picture[0] == number:
            return self._picture[1]
        key = self._key_before(number)
        sought = self._run is None or number < self._next or key > self._next + SEEK_BEYOND
        if sought:
            self._run, self._next = _frames_from(self._uri, self._index, key), key
        try:
            frame = self._advance(number)
        except VideoError:
            self._run = None
            if not sought or key == 0:
                raise
            # Some files cannot be sought in exactly; from the start they decode.
            self._run, self._next = _frames_from(self._uri, self._index, 0), 0
            frame = self._advance(number)
        self._picture = (number, self._rgb(frame))
        return self._picture[1]

    def _key_before(self, number: int) -> int:
        keys = self._index.keys
        if self._index.ticks is None or not len(keys):
            return 0
        return int(keys[max(0, np.searchsorted(keys, number, side="right") - 1)])

    def _advance(self, number: int) -> VideoFrame:
        assert self._run is not None
        with av_errors(self._uri):
            for at, frame in self._run:
                if at != self._next:
                    raise VideoError(f"{self._uri} is damaged: frame {self._next} cannot be decoded")
                self._next += 1
                if at == number:
                    return frame
        count = self._index.info.num_frames
        raise VideoError(f"{self._uri} breaks off after frame {self._next - 1}; it should have {count} frames")

    def _rgb(self, frame: VideoFrame) -> UInt8[ndarray, "h w 3"]:
        info = self._index.info
        array = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if info.rotation:
            array = np.ascontiguousarray(np.rot90(array, info.rotation // 90))
        if array.shape != (info.height, info.width, 3):
            raise VideoError(
                f"{self._uri} changes its size from {info.width}x{info.height} to {array.shape[1]}x{array.shape[0]}; "
                "encode it anew at one size"
            )
        return array


def _frames_from(uri: str | Path, index: VideoIndex, key: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames and their numbers from a key frame on.

    No method: it would hold the object that holds it, and a decoder's buffers would stay until the garbage collector
    comes.
    """
    ticks = index.ticks
    with open_video(uri, index.path) as (container, stream):
        if key and ticks is not None:
            container.seek(int(ticks[key]), stream=stream)
        for count, frame in enumerate(decoded(uri, container, stream)):
            if ticks is None:
                yield count, frame
                continue
            at = int(np.searchsorted(ticks, frame.pts if frame.pts is not None else -1))
            if at >= len(ticks) or ticks[at] != frame.pts:
                raise VideoError(f"{uri} is damaged: it has a frame at a time that its index does not name")
            if at == key and not (index.indexed or frame.key_frame):
                # Of streams with few timestamps (MPEG-PS) decoders guess the others, after seeking differently.
                raise VideoError(f"{uri} is damaged: frame {key} is no key frame")
            if at >= key:
                yield at, frame
