"""VBench's own numbers: it is run in an environment of its own, or its JSON is given; nothing here imitates it.

VBench (Huang et al. 2024, Vchitect/VBench, Apache-2.0) pins old versions of much that longvie needs newer. What it
writes, `<name>_eval_results.json`, maps each dimension to [mean, [{"video_path": ..., "video_results": ...}, ...]].
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, first_line
from pipelines.evaluation.folders import GeneratedVideo, Reference
from pipelines.evaluation.options import EvaluateOptions, named
from pipelines.fetch import stamp_of
from pipelines.hashes import fingerprint
from pipelines.storage import Storage, open_storage

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "overall_consistency",
    "dynamic_degree",
    "temporal_flickering",
    "aesthetic_quality",
    "imaging_quality",
)
PERCENT = 100.0  # VBench writes some means (imaging quality) as 0..1 and their videos as 0..100

_SCRIPT = """
import json, os, sys, torch, vbench
job = json.load(open(sys.argv[1]))
info = os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json")
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
vbench.VBench(device, info, job["out"]).evaluate(
    videos_path=job["videos"], name="longvie", prompt_list=job["prompts"], dimension_list=job["dimensions"],
    mode="custom_input",
)
"""


def read_vbench(
    options: EvaluateOptions, videos: Sequence[GeneratedVideo], reference: Reference, storage: Storage
) -> list[dict[str, Any]]:
    """Rows of scores, one a video and dimension, of the JSON files given and of VBench itself where it is to run."""
    rows: list[dict[str, Any]] = []
    takes: dict[str, int] = {}
    for given in options.vbench_json:
        run, file = named(given, options.names[0])
        if run not in options.names:
            raise UserError(f"--vbench-json {given}: {run} is no run; choose one of {', '.join(options.names)}")
        take = takes.get(run, 0)
        takes[run] = take + 1
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--vbench-json {file} is not a readable JSON file ({first_line(error)})") from error
        rows += _rows(file, content, [v for v in videos if (v.run.name, v.run.take) == (run, take)])
    if options.vbench_python is not None:
        for run in options.runs:
            own = [video for video in videos if video.run == run and video.incomplete is None]
            if own:
                name = f"vbench/{run.name}-{run.take}.json"
                rows += _rows(name, _run(options.vbench_python, own, reference, storage, name), own)
    return rows


def _rows(name: str, content: Any, videos: Sequence[GeneratedVideo]) -> Iterator[dict[str, Any]]:
    if not isinstance(content, Mapping):
        raise UserError(f"{name} is not what VBench writes: a JSON object, one field a dimension")
    by_id = {video.video_id: video for video in videos}
    for dimension, result in content.items():
        if not (isinstance(result, list) and len(result) == 2 and isinstance(result[1], list)):
            raise UserError(f"{name}, field {dimension}: not [mean, [one entry a video]], as VBench writes")
        for entry in result[1]:
            if not isinstance(entry, Mapping) or not {"video_path", "video_results"} <= set(entry):
                raise UserError(f"{name}, field {dimension}: an entry has no video_path and video_results")
        mean = sum(float(entry["video_results"]) for entry in result[1]) / max(1, len(result[1]))
        scale = PERCENT if abs(mean / PERCENT - result[0]) < abs(mean - result[0]) else 1.0
        for entry in result[1]:
            path = Path(str(entry["video_path"]))
            video = by_id.get(path.stem) or by_id.get(path.parent.name)
            if video is None:
                raise UserError(
                    f"{name}, field {dimension}: {path} is no video of the run; name files <video_id>.mp4, or give "
                    "longvie's own <video_id>/video.mp4"
                )
            value = float(entry["video_results"])
            yield {
                "run": video.run.name,
                "take": video.run.take,
                "seed": video.seed,
                "video": video.video_id,
                "segment": -1,
                "frame": -1,
                "metric": f"vbench_{dimension}",
                "value": value / scale,
            }


def _run(
    python: str, videos: Sequence[GeneratedVideo], reference: Reference, storage: Storage, name: str
) -> dict[str, Any]:
    """VBench over the videos of one folder, unless OUT has its result for the same videos."""
    uris = [f"{open_storage(video.run.uri).uri}/{video.video_id}/video.mp4" for video in videos]
    key = fingerprint([list(DIMENSIONS), [[uri, stamp_of(uri)] for uri in uris]])
    try:
        kept = json.loads(storage.read(name))
        if kept["key"] == key:
            return kept["result"]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    prompts = {video.video_id: video.prompts[0] or "" for video in reference.videos}
    with tempfile.TemporaryDirectory(prefix="longvie-vbench-") as folder:
        home = Path(folder)
        (home / "videos").mkdir()
        given = {}
        for video in videos:
            path = home / "videos" / f"{video.video_id}.mp4"
            open_storage(video.run.uri).get(f"{video.video_id}/video.mp4", path)
            given[str(path)] = prompts[video.video_id]
        out = home / "out"
        job = {"videos": str(home / "videos"), "out": str(out), "prompts": given, "dimensions": list(DIMENSIONS)}
        (home / "job.json").write_text(json.dumps(job))
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        command = [python, "-c", _SCRIPT, str(home / "job.json")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=home)
        except OSError as error:
            raise UserError(f"--vbench-python {python} cannot be run ({first_line(error)})") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"--vbench-python {python}: VBench failed ({last}); see its installation notes")
        result = json.loads((out / "longvie_eval_results.json").read_text())
    storage.write(name, json.dumps({"key": key, "result": result}).encode())
    return result
