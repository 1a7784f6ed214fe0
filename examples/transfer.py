"""LongVie's transfer tasks (LongVie, section 4: editing, motion and scene transfer, mesh to video), each with a report.

    python examples/transfer.py edit   --out out/edit      # the same video, its first frame edited
    python examples/transfer.py motion --out out/motion    # another first frame, moved as the source moves
    python examples/transfer.py mesh   --out out/mesh      # an animated 3-D scene without its looks

All three are one thing: controls from one place, the first frame from another. Without flags the sources are synthetic
and the model is the embedded one, so that it runs offline; `--source`, `--first-frame` and `--model` take yours.
report.html shows source and result side by side with the controls, and how well the result follows them.
"""

from __future__ import annotations

import argparse
import html
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from longvie.media import read_image, write_image
from longvie.metrics.catalogue import metric_of
from pipelines.errors import UserError
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.folders import read_generated, read_reference
from pipelines.evaluation.options import EvaluateOptions, RunFolder
from pipelines.evaluation.player import player
from pipelines.generation.generate import GenerateOptions, generate
from pipelines.generation.inputs import Row, read_rows, to_manifest
from pipelines.generation.plan import ModelChoice
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.prepare import prepare
from pipelines.rendering.options import RenderOptions
from pipelines.rendering.render import render
from pipelines.scenes.options import ScenesOptions
from pipelines.scenes.scenes import make_scenes

TASKS = {
    "edit": "Video editing: the first frame is edited, depth and tracks stay",
    "motion": "Motion transfer: another first frame, the source's depth and tracks",
    "mesh": "Mesh to video: depth and tracks of an animated mesh, another look",
}
FOLLOWS = (
    "depth_absrel",
    "depth_delta1",
    "depth_si_rmse",
    "track_delta_avg",
    "track_occlusion",
    "flickering",
    "boundary_ratio",
)
HUE = 60  # of OpenCV's 180: what the edit turns colours by


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", help="a video; for mesh, a .glb; default: a synthetic one")
    parser.add_argument("--first-frame", help="an image; default: made by the task")
    parser.add_argument("--prompt", help="of all segments; default: the source's own")
    parser.add_argument("--segments", type=int, default=3, help="of a synthetic source")
    parser.add_argument("--model", help="default: the embedded one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="0: this process, no Ray")
    run(parser.parse_args(arguments))


def run(options: Any) -> Path:
    """Do one task; report.html."""
    out = options.out.expanduser().absolute()
    row = source_row(options, out)
    first = out / "first_frame.png"
    if options.first_frame:
        write_image(first, read_image(options.first_frame))
    elif options.task == "motion":
        write_image(first, read_image(other_scene(options, out)))
    else:
        write_image(first, edited(read_image(row.first_frame)))
    prompts = ((None, options.prompt),) if options.prompt else row.prompts
    changed = replace(row, first_frame=str(first), prompts=prompts)
    (out / "manifest.jsonl").write_text(json.dumps(to_manifest(changed)) + "\n")
    outcomes = generate(
        GenerateOptions(
            source=str(out / "manifest.jsonl"),
            out=str(out / "made"),
            model=ModelChoice(model=options.model),
            seed=options.seed,
            workers=options.workers,
        ),
        say,
    )
    if outcomes[0].status == "failed":
        raise UserError(f"the video could not be made: {outcomes[0].error}")
    done = evaluate(
        EvaluateOptions(
            generated=(f"made={out / 'made'}",), reference=str(out / "prepared"), out=str(out / "scores"), vae="none",
            workers=options.workers, report=False,
        ),
        say,
    )  # fmt: skip
    return write_report(options, out, row, done.summary)


def source_row(options: Any, out: Path) -> Row:
    """The source prepared, as a row of generation."""
    prepared, model = str(out / "prepared"), options.model or "tiny"
    common: dict[str, Any] = {"out": prepared, "model": model, "workers": options.workers}
    if options.task == "mesh":
        scene = options.source or str(out / "scene.glb")
        if options.source is None:
            out.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, str(Path(__file__).parent / "scene.py"), scene], check=True)
        summary = render(RenderOptions(scene=scene, num_frames=options.segments * 16 + 1, **common), say)
    elif options.source is not None:
        summary = prepare(PrepareOptions(inputs=(options.source,), report=False, **common), say)
    else:
        summary = make_scenes(ScenesOptions(split="test", num_frames=options.segments * 16 + 1, **common), say)
    if summary.errors:
        raise UserError(f"the source could not be prepared: {summary.errors[0]['error']}")
    return max(read_rows(prepared), key=lambda row: (len(row.dense), row.video_id))


def other_scene(options: Any, out: Path) -> str:
    """The first frame of a scene that the source is not."""
    folder = str(out / "other")
    make_scenes(
        ScenesOptions(
            split="test", start=1, num_frames=17, out=folder, model=options.model or "tiny", workers=options.workers
        ),
        say,
    )
    return read_rows(folder)[0].first_frame


def edited(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
    """The picture with its colours turned: red becomes green, green blue; greys stay."""
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + HUE) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def write_report(options: Any, out: Path, row: Row, summary: Mapping[str, Any]) -> Path:
    reference = read_reference(str(out / "prepared"))
    video = next(video for video in reference.videos if video.video_id == row.video_id)
    made = {
        one.video_id: one for one in read_generated(RunFolder(name="made", uri=str(out / "made"), take=0), reference)
    }
    picture = player(made[row.video_id], video, reference)
    runs = {said["name"]: said["metrics"] for said in summary["runs"]}
    rows = "".join(
        f"<tr><th>{html.escape(metric_of(name).title)}</th>"
        + "".join(f"<td>{_number(runs[run].get(name))}</td>" for run in ("made", "truth", "frozen"))
        + "</tr>"
        for name in FOLLOWS
    )
    path = out / "report.html"
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<link rel=icon href='data:,'><style>:root{color-scheme:light dark}"
        "body{font:15px/1.5 system-ui;max-width:720px;margin:auto;padding:12px}"
        "video{width:100%;image-rendering:pixelated}td,th{padding:3px 12px 3px 0;text-align:left;"
        "font-weight:400}</style>"
        f"<title>{options.task}</title><h1>{html.escape(TASKS[options.task])}</h1>"
        f"<p>Above: the source, and what was made. Below: the depth and tracks that lead both.</p>"
        f"<video controls loop muted autoplay playsinline src='{picture}'></video>"
        f"<p>{html.escape('; '.join(text for _, text in row.prompts))}</p>"
        "<p>How well it follows, beside the source itself (what the estimators cost) and the first frame held still. "
        "There is no true video of the new look, so nothing is compared with one.</p>"
        f"<table><tr><th></th><th>made</th><th>source</th><th>frozen source</th></tr>{rows}</table></html>",
        encoding="utf-8",
    )
    print(path)
    return path


def _number(said: Mapping[str, Any] | None) -> str:
    return "" if said is None else f"{said['mean']:.3g}"


def say(kind: str, **fields: Any) -> None:
    if kind in ("stage", "plan"):
        print(f"{kind}: {fields.get('stage', '')}", flush=True)


if __name__ == "__main__":
    main()
