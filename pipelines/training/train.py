"""`longvie train`: checks everything at the door, then runs the loop here or on Ray Train's workers."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from longvie.models.encoders import encoder_fingerprint
from longvie.models.loading import fingerprint, resolve_model
from longvie.training.dry_run import dry_run
from longvie.training.own_frames import OwnFrames
from longvie.training.start import transformer_config
from longvie.training.trainer import NotFiniteError
from pipelines import cluster
from pipelines.progress import Report
from pipelines.storage import check_writable, local_path_of, open_storage, scheme_of
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.errors import TrainError
from pipelines.training.loop import LOG, train_here
from pipelines.training.options import TrainOptions, decisive


def train(options: TrainOptions, report: Report) -> None:
    """Train, or go on from the last checkpoint of the same run.

    Raises:
        UserError, EncodedError, CheckpointError: something is wrong with what was asked for.
        TrainError: a loss was no number, or workers died more often than `retries`.
    """
    options = _everywhere(options)
    recipe = options.chosen
    data = options.dataset()
    data.check_model(transformer_config(options.model, recipe, fresh=options.fresh), encoder_fingerprint(options.model))
    decides = decisive(options, data.fingerprint, fingerprint(options.model))
    check_writable(options.out)
    storage = open_storage(options.out)
    checkpoints = Checkpoints(storage, decides["key"], options.keep)
    if any(stage.conditions.own for stage in recipe.stages):
        OwnFrames(recipe, data, options.seed, 0)  # refused here if there is nothing to make
    if options.restart:
        storage.delete(LOG)
        checkpoints.tidy(everything=True)
    checkpoints.steps()  # of another run: refused
    checkpoints.tidy()
    storage.write("recipe.json", (json.dumps(decides, indent=1) + "\n").encode())
    try:
        if options.workers == 0:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            train_here(options, decides["key"], report, device=device)
        else:
            _on_ray(options, decides["key"], report)
    except NotFiniteError as error:
        raise TrainError(str(error)) from error


def run_dry(options: TrainOptions) -> list[str]:
    """What the recipe takes on the workers asked for, in lines; of encoded data its own sizes, else Wan's."""
    recipe, sizes = options.chosen, {}
    if options.data:
        meta = options.dataset().meta
        sizes = {"latents": meta.latent.whole, "max_text_tokens": meta.max_text_tokens}
    config = None if options.model is None else transformer_config(options.model, recipe, fresh=options.fresh)
    if config is not None and not config.get("num_control_layers"):
        config = {**config, "num_control_layers": recipe.config["num_control_layers"]}
    return dry_run(recipe, workers=max(1, options.workers), config=config, lora=options.lora, **sizes).lines()


def _on_ray(options: TrainOptions, key: str, report: Report) -> None:
    with cluster.cluster(options.address), tempfile.TemporaryDirectory(prefix="longvie-") as folder:
        placement = cluster.place_stage(
            "training",
            options.workers,
            options.gpus_per_worker,
            options.threads_per_worker,
            options.wait_for_nodes,
            "--workers, --gpus-per-worker or --threads-per-worker",
        )
        report("note", text=str(placement))
        events: Any = Queue(actor_options={"num_cpus": 0})
        gpus = placement.gpus_per_worker
        trainer = TorchTrainer(
            _on_worker,
            train_loop_config={"options": asdict(options), "key": key, "events": events},
            scaling_config=ray.train.ScalingConfig(
                num_workers=options.workers,
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": options.threads_per_worker, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=ray.train.RunConfig(
                name="longvie",
                storage_path=folder,  # of Ray's own notes; checkpoints are ours
                failure_config=ray.train.FailureConfig(max_failures=options.retries),
            ),
        )
        failures: list[BaseException] = []
        threading.Thread(target=_fit, args=(trainer, events, failures), daemon=True).start()
        stopped: str | None = None
        while (event := events.get())[0] != "end":
            kind, fields = event
            if kind == "not finite":
                stopped = fields["text"]
            else:
                report(kind, **fields)
        events.shutdown()
        if stopped is not None:
            raise TrainError(stopped)
        if failures:
            lines = str(failures[0]).strip().splitlines()
            raise TrainError(f"training failed ({lines[-1] if lines else failures[0]!r}); the same command goes on")


def _fit(trainer: TorchTrainer, events: Any, failures: list[BaseException]) -> None:
    """Train; the last event is `end`, after all that workers told."""
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001  told by the driver's own thread
        failures.append(error)
    finally:
        events.put(("end", {}))


def _on_worker(config: Mapping[str, Any]) -> None:
    """The loop on one of Ray Train's workers, in its process group."""
    values = dict(config["options"])
    values["steps"] = tuple(map(tuple, values["steps"]))
    events = config["events"]
    context = ray.train.get_context()

    def tell(kind: str, **fields: Any) -> None:
        events.put((kind, fields))

    try:
        train_here(
            TrainOptions(**values),
            config["key"],
            tell,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=str(get_device()),
        )
    except NotFiniteError as error:  # another try would end the same way
        if context.get_world_rank() == 0:
            tell("not finite", text=str(error))


def _everywhere(options: TrainOptions) -> TrainOptions:
    """With absolute paths, as workers have other working folders."""

    def absolute(uri: str) -> str:
        return str(local_path_of(uri).absolute()) if scheme_of(uri) == "file" else uri

    changes: dict[str, Any] = {"data": tuple(map(absolute, options.data)), "out": absolute(options.out)}
    if options.model is not None:
        changes["model"] = None if options.model == "tiny" else str(resolve_model(options.model).absolute())
    return TrainOptions(**{**asdict(options), "steps": options.steps, **changes})
