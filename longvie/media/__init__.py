"""Reads and writes frames; the only room that knows codecs. It needs no torch.

Frames are uint8 RGB arrays (t, h, w, 3), 0..255. Sources are local paths or fsspec URIs (fetched to a local cache
first). What a user can get wrong raises `VideoError`, one line that names the file.

    files.py     where a file lies; images
    container.py a file opened for decoding
    index.py     what a video is and when each of its frames is shown
    read.py      frames by their number, exactly
    timeline.py  the same video at another frame rate and size, as a stream of batches
    fit.py       frames at another size
    write.py     frames into files
"""

from longvie.media.files import VideoError, local_path, read_image, write_image
from longvie.media.fit import fit_frames
from longvie.media.index import VideoInfo, probe_video
from longvie.media.read import Video
from longvie.media.timeline import num_resampled, resampled, timeline
from longvie.media.write import CONTROL, GREY, VIDEO, Codec, join_videos, write_video

__all__ = [
    "CONTROL",
    "GREY",
    "VIDEO",
    "Codec",
    "Video",
    "VideoError",
    "VideoInfo",
    "fit_frames",
    "join_videos",
    "local_path",
    "num_resampled",
    "probe_video",
    "read_image",
    "resampled",
    "timeline",
    "write_image",
    "write_video",
]
