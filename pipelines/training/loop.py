"""What one worker of a run does, alone or in a process group: load, go on from the last checkpoint, step, save.

It tells what happens as events; only worker 0 does. Ray is not known here.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch.utils.tensorboard import SummaryWriter

from longvie.models.encoders import encoder_fingerprint, load_encoders
from longvie.training.export import export_pipeline, export_release, gather_weights, transformer_of
from longvie.training.lora import add_lora, save_lora
from longvie.training.samples import make_latents, side_by_side
from longvie.training.sharding import shard
from longvie.training.start import DTYPES, starting_transformer, transformer_config
from longvie.training.trainer import Trainer, describe, learning_parameters
from longvie.types import VideoAutoencoder
from longvie.video import write_video
from pipelines.storage import Storage, open_storage
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.options import TrainOptions
from pipelines.training.trackers import Trackers

LOG, BOARD, SAMPLES = "log.jsonl", "tensorboard", "samples"
MODEL, RELEASE, LORA = "model", "release", "lora"
Tell = Callable[..., None]


def train_here(
    options: TrainOptions, key: str, tell: Tell, *, rank: int = 0, world_size: int = 1, device: str = "cpu"
) -> None:
    """Train to the last step and export; returns at once if that has been done.

    Raises:
        NotFiniteError: a loss is no number; the last checkpoint is kept.
    """
    torch.set_num_threads(options.threads_per_worker)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    recipe = options.chosen
    storage = open_storage(options.out)
    data = options.dataset()
    data.check_model(transformer_config(options.model, recipe, fresh=options.fresh), encoder_fingerprint(options.model))
    model = starting_transformer(options.model, recipe, fresh=options.fresh, seed=options.seed, device=device)
    if options.lora is not None:
        add_lora(model, options.lora, options.seed)
    for _, value in learning_parameters(model, recipe, options.lora is not None):
        value.data = value.data.float()  # an update is less than bfloat16's last digit
    if recipe.sharded and world_size > 1:
        shard(model, DTYPES[recipe.dtype])
    vae = load_encoders(options.model, device=device).vae
    trainer = Trainer(
        recipe,
        model,
        data,
        vae,
        seed=options.seed,
        device=device,
        rank=rank,
        world_size=world_size,
        lora=options.lora is not None,
    )
    checkpoints = Checkpoints(storage, key, options.keep)
    steps_done = max(checkpoints.steps(), default=0)
    if steps_done:
        trainer.enter(steps_done - 1)
        checkpoints.load(steps_done, trainer.state())
    if rank == 0:
        tell("begin", step=steps_done, num_steps=recipe.num_steps, num_samples=len(data), batch=recipe.batch)
    log = _Log(storage, options, key, steps_done) if rank == 0 else None
    started, first = time.monotonic(), steps_done
    for step in range(steps_done, recipe.num_steps):
        result = trainer.step(step)
        if log is not None and ((step + 1) % options.log_every == 0 or step + 1 == recipe.num_steps):
            numbers = describe(result)
            log.add(numbers)
            rate = (step + 1 - first) / (time.monotonic() - started)
            tell("step", **numbers, samples_per_second=round(rate * recipe.batch, 3))
        if options.sample_every and (step + 1) % options.sample_every == 0:
            _show(trainer, vae, storage, step + 1, tell if rank == 0 else None)
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == recipe.num_steps:
            if log is not None:
                log.write()
            checkpoints.save(step + 1, trainer.state(), {"stage": result.stage, "workers": world_size})
            if rank == 0:
                tell("checkpoint", step=step + 1)
    if log is not None:
        log.close()
    _export(trainer, options, storage, tell if rank == 0 else None)


def _show(trainer: Trainer, vae: VideoAutoencoder, storage: Storage, steps_done: int, tell: Tell | None) -> None:
    """A validation video: the first sample, made by the averaged weights, beside the truth and its controls.

    All workers must call this; the one with `tell` writes.
    """
    recipe, sample = trainer.recipe, trainer.data[0]
    was_training = trainer.model.training
    trainer.model.eval()
    with trainer.average.applied():
        made = make_latents(
            trainer.model,
            trainer.data,
            sample,
            num_steps=recipe.num_inference_steps,
            shift=recipe.levels.shift,
            seed=0,
            keeps_first_frame=recipe.keeps_first_frame,
            dtype=DTYPES[recipe.dtype],
        )
    trainer.model.train(was_training)
    if tell is None:
        return
    name = f"{SAMPLES}/{steps_done:08d}.mp4"
    with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
        path = Path(folder) / "sample.mp4"
        write_video(path, side_by_side(vae, sample, made), trainer.data.meta.fps)
        storage.put(name, path)
    tell("sample", path=f"{storage.uri}/{name}")


def _export(trainer: Trainer, options: TrainOptions, storage: Storage, tell: Tell | None) -> None:
    """The averaged weights: a pipeline and the release's files, or a LoRA. All workers call it; one writes."""
    dtype = DTYPES[trainer.recipe.dtype]
    weights = gather_weights(trainer.model, trainer.average.weights, dtype, keep=tell is not None)
    if tell is None:
        return
    recipe, meta = trainer.recipe, trainer.data.meta
    with tempfile.TemporaryDirectory(prefix="longvie-") as name:
        folder = Path(name)
        if options.lora is not None:
            save_lora(trainer.model, weights, folder / LORA)
        else:
            model = transformer_of(trainer.model.config, weights)
            defaults = {"segment_length": meta.segment_length, "height": meta.height, "width": meta.width}
            defaults |= {"fps": int(meta.fps), "num_inference_steps": recipe.num_inference_steps}
            defaults["keeps_first_frame"] = recipe.keeps_first_frame
            export_pipeline(model, options.model, folder / MODEL, defaults)
            export_release(model, folder / RELEASE)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            storage.put(path.relative_to(folder).as_posix(), path)
    tell("model", path=f"{storage.uri}/{LORA if options.lora is not None else MODEL}")


class _Log:
    """log.jsonl, TensorBoard, trackers. What a dead run logged past its last checkpoint is made again, to the bit."""

    def __init__(self, storage: Storage, options: TrainOptions, key: str, steps_done: int) -> None:
        self._storage, out = storage, options.out
        self._records: list[dict[str, Any]] = []
        try:
            lines = storage.read(LOG).decode().splitlines()
        except FileNotFoundError:
            lines = []
        self._records = [record for record in map(json.loads, lines) if record["step"] <= steps_done]
        board = str(Path(out) / BOARD) if "://" not in out else f"{out.rstrip('/')}/{BOARD}"
        self._board = SummaryWriter(board, purge_step=steps_done + 1)
        self._trackers = Trackers(options.trackers, key, {"recipe": options.recipe, "seed": options.seed, "key": key})

    def add(self, numbers: dict[str, Any]) -> None:
        self._records.append(numbers)
        for name, value in numbers.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, numbers["step"])
        self._trackers.log(numbers)

    def write(self) -> None:
        """Before a checkpoint, so that none is ahead of its log."""
        self._storage.write(LOG, "".join(json.dumps(record) + "\n" for record in self._records).encode())
        self._board.flush()

    def close(self) -> None:
        self._board.close()
        self._trackers.finish()
