"""The embedded model's decoder, refined on what its transformer makes: from scenes to a model that loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from longvie.models.encoders import encoder_fingerprint
from longvie.models.loading import TINY, load_pipeline
from pipelines.cli import main
from pipelines.training.refine import BORDER_SMOOTHING, refine


def _run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0


def test_it_changes_the_decoder_and_nothing_else(tmp_path: Path) -> None:
    scenes, data, out = tmp_path / "scenes", tmp_path / "data", tmp_path / "model"
    start = tmp_path / "start"
    shutil.copytree(TINY, start)
    settings = start / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text())))  # not as transformers would write it
    _run(
        "scenes", "--split", "validation", "--count", "2", "--num-frames", "33", "--out", str(scenes), "--workers", "0"
    )
    encode = ["encode", str(scenes), "--model", str(start), "--out", str(data), "--workers", "0"]
    _run(*encode, "--history-frames", "8", "--degraded-variants", "0")
    for _ in range(2):  # what is there is replaced
        refine(start, [str(data)], [str(scenes)], out, num_segments=2, num_steps=2, seed=0)
    assert encoder_fingerprint(out) == encoder_fingerprint(start), "the same data goes with it"
    before, after = load_pipeline(TINY), load_pipeline(out)
    for name in ("transformer", "text_encoder"):
        theirs = getattr(after, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in getattr(before, name).state_dict().items())
    ours, theirs = before.vae.state_dict(), after.vae.state_dict()
    changed = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert changed
    assert all(name.startswith("refiner.") for name in changed)
    assert after.vae.config.border_smoothing == BORDER_SMOOTHING
    assert after.config["keeps_first_frame"]
    assert not any("_name_or_path" in path.read_text() for path in out.rglob("*.json"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
