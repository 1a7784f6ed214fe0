"""LongVie: controllable ultra-long video generation. The method, without Ray and without HTTP."""

from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video, run_segment
from longvie.models.checkpoints import CheckpointError, export_release, load_transformer
from longvie.models.loading import load_pipeline
from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline
from longvie.segments import plan_segments
from longvie.types import Carry, ControlMaps, ControlSource, Segment, SegmentResult

__version__ = "0.1.0"
__all__ = [
    "Carry",
    "CheckpointError",
    "ControlMaps",
    "ControlSource",
    "GenerationConfig",
    "LongViePipeline",
    "LongVieTransformer3DModel",
    "LongVideoRequest",
    "Segment",
    "SegmentResult",
    "export_release",
    "generate_long_video",
    "load_pipeline",
    "load_transformer",
    "plan_segments",
    "run_segment",
]
