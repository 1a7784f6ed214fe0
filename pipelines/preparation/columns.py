"""The tables that preparation writes: their columns, once. Readable by DuckDB, pandas and `datasets` as they are.

Paths are relative to OUT. Frames are counted on the resampled timeline, from 0. Rows are sorted by their first columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

_ROWS_A_GROUP = 1024  # a statistics row holds a histogram of some 100 KB: a group is what a reader holds at once


def _field(name: str, type_: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"meaning": meaning})


_text, _int, _real = pa.string(), pa.int64(), pa.float64()

# One row a shot of a source that could be read, kept or not.
VIDEOS = pa.schema(
    [
        _field("video_id", _text, "<file's stem>-<8 digits of its SHA-256>-<shot's number>"),
        _field("source", _text, "URI of the file"),
        _field("sha256", _text, "of the file"),
        _field("duplicates", pa.list_(_text), "URIs of other files with the same content"),
        _field("shot", _int, "number of the shot within the source, from 0"),
        _field("start", _int, "its first frame"),
        _field("stop", _int, "the frame after its last"),
        _field("kept", pa.bool_(), "whether it became a long video"),
        _field("reason", _text, "why not, with the measured value", nullable=True),
        _field("brightness", _real, "mean luma, 0..255"),
        _field("motion", _real, "mean absolute difference of luma between neighbouring frames, 0..255"),
        _field("num_segments", _int, "how many segments it has; 0 if it is not kept"),
        _field("whole", pa.bool_(), "whether all its segments are prepared: it stands in manifest.jsonl"),
        _field("fps", _real, "of the prepared video"),
        _field("height", _int, "of the prepared video, pixels"),
        _field("width", _int, "of the prepared video, pixels"),
        _field("source_fps", _real, "mean frame rate of the file"),
        _field("source_height", _int, "as displayed, pixels"),
        _field("source_width", _int, "as displayed, pixels"),
        _field("source_frames", _int, "frames of the file"),
        _field("source_seconds", _real, "duration of the file"),
        _field("variable", pa.bool_(), "whether the file's frame rate varies"),
        _field("codec", _text, "of the file"),
        _field("rotation", _int, "that the file asks for, degrees; it is applied"),
        _field("bit_depth", _int, "of the file's video"),
        _field("has_audio", pa.bool_(), "whether the file has sound; it is not used"),
        _field("decoder", _text, "decord or pyav"),
    ]
)

# One row a prepared segment.
SEGMENTS = pa.schema(
    [
        _field("video_id", _text, "the long video, as in videos.parquet"),
        _field("segment", _int, "its number within the long video, from 0"),
        _field("source", _text, "URI of the file"),
        _field("start", _int, "first frame within the long video; shared with the segment before"),
        _field("num_frames", _int, "frames of its files; fewer than the model's only in the last segment"),
        _field("source_start", _int, "first frame on the source's resampled timeline"),
        _field("first_frame", _text, "PNG; of the first segment only", nullable=True),
        _field("dense", _text, "dense control, MP4"),
        _field("sparse", _text, "sparse control, MP4"),
        _field("tracks", _text, "points (T, N, 2) float16 and visibility (T, N), NPZ", nullable=True),
        _field("prompt", _text, "what it shows", nullable=True),
        _field("low", _real, "depth that became black (or white, for disparity): the 5th percentile", nullable=True),
        _field("high", _real, "depth that became white (or black, for disparity): the 95th", nullable=True),
    ]
)

# One row a long video and one for the dataset; one a segment where `--scope segment` was asked for. Of depth as it is
# stored (float16): percentiles are those of numpy.percentile over all finite values, to the bit.
STATS = pa.schema(
    [
        _field("scope", _text, "dataset, video or segment"),
        _field("video_id", _text, "empty for the dataset"),
        _field("segment", _int, "number of the segment; -1 for wider scopes"),
        _field("polarity", _text, "depth (large is far) or disparity (large is near); mixed for a dataset of both"),
        _field("count", _int, "finite values"),
        _field("num_nan", _int, "values that are not numbers; excluded"),
        _field("num_inf", _int, "infinite values; excluded"),
        _field("min", _real, "of the finite values"),
        _field("max", _real, "of the finite values"),
        _field("p2", _real, "percentiles of the finite values"),
        _field("p5", _real, ""),
        _field("p50", _real, ""),
        _field("p95", _real, ""),
        _field("p98", _real, ""),
        _field("histogram", pa.binary(), "counts of the 65,536 float16 bit patterns; see DepthHistogram.from_bytes"),
    ]
)

# One row for whatever could not be prepared.
ERRORS = pa.schema(
    [
        _field("source", _text, "URI of the file"),
        _field("stage", _text, "sources (reading and hashing), scan, depth, controls or captions"),
        _field("unit", _text, "what failed within the source: the whole, a stretch of depth or a segment"),
        _field("error", _text, "one line"),
        _field("attempts", _int, "how often it was tried"),
    ]
)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> int:
    """Write rows as Parquet, a group at a time; how many there were. Equal rows give equal bytes."""
    count = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        group: list[Mapping[str, Any]] = []
        for row in rows:
            group.append(row)
            count += 1
            if len(group) == _ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    return count
