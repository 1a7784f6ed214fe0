"""LongVie: controllable ultra-long video generation. The method, without Ray and without HTTP.

Names are imported when they are first asked for (PEP 562): whoever needs only segments or frames does not pay for torch
and the model libraries, which take 500 MB.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longvie.config import GenerationConfig
    from longvie.long_video import LongVideoRequest, generate_long_video, run_segment
    from longvie.models.checkpoints import CheckpointError, export_release, load_transformer
    from longvie.models.loading import load_pipeline
    from longvie.models.transformer import LongVieTransformer3DModel
    from longvie.pipeline import LongViePipeline
    from longvie.segments import Segment, plan_segments
    from longvie.types import Carry, ControlMaps, ControlSource, SegmentResult

__version__ = "0.1.0"
__all__ = [
    "Carry",
    "CheckpointError",
    "ControlMaps",
    "ControlSource",
    "GenerationConfig",
    "LongVideoRequest",
    "LongViePipeline",
    "LongVieTransformer3DModel",
    "Segment",
    "SegmentResult",
    "export_release",
    "generate_long_video",
    "load_pipeline",
    "load_transformer",
    "plan_segments",
    "run_segment",
]

_HOMES = {
    "Carry": "longvie.types",
    "CheckpointError": "longvie.models.checkpoints",
    "ControlMaps": "longvie.types",
    "ControlSource": "longvie.types",
    "GenerationConfig": "longvie.config",
    "LongViePipeline": "longvie.pipeline",
    "LongVieTransformer3DModel": "longvie.models.transformer",
    "LongVideoRequest": "longvie.long_video",
    "Segment": "longvie.segments",
    "SegmentResult": "longvie.types",
    "export_release": "longvie.models.checkpoints",
    "generate_long_video": "longvie.long_video",
    "load_pipeline": "longvie.models.loading",
    "load_transformer": "longvie.models.checkpoints",
    "plan_segments": "longvie.segments",
    "run_segment": "longvie.long_video",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
