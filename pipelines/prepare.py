"""`longvie prepare`: any videos in; controls, exact statistics and segments out, in what generation and training read.

Passes over units, each a stage of its own: what the sources are, their shots, depth, controls. Between passes the
driver reads commits and decides what comes next; it holds no frame. Whatever happens, the same command again makes
what is missing and nothing else.
"""

from __future__ import annotations

import functools
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import cluster, outputs, statistics
from pipelines.control_stage import ControlStage
from pipelines.depth_stage import DepthStage, depth_file, histogram_file
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.estimators import describe, describe_tracker, is_tracker, needs_torch
from pipelines.fetch import stamp_of
from pipelines.long_videos import Content, LongVideo, contents_of, long_videos, scan_unit, source_units
from pipelines.outputs import Prepared
from pipelines.passes import Result, run_here, run_on_ray
from pipelines.prepare_options import PrepareOptions
from pipelines.progress import Report
from pipelines.recipe import NAME, Estimator, Recipe, open_recipe
from pipelines.sources import Source, read_sources
from pipelines.stages import ScanStage, SourcesStage
from pipelines.storage import Storage, check_writable, open_storage
from pipelines.unit_worker import Job, Stage
from pipelines.units import Made, Unit, UnitCommit, UnitStore
