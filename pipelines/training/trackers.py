"""Experiment trackers beside TensorBoard, by extra: whatever `accelerate` knows how to talk to, wandb first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from pipelines.errors import UserError

PROJECT = "longvie"
NAMES = tuple(name for name in LOGGER_TYPE_TO_CLASS if name != "tensorboard")  # which is always written


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UserError` unless these can be used here."""
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in NAMES:
            raise UserError(f"--tracker is {name}; choose one of {', '.join(NAMES)}")
        if name not in installed:
            raise UserError(f"--tracker {name} needs its package: pip install {name.replace('_', '-')}")


class Trackers:
    """A run's numbers, told to each tracker. Sign in and choose a server as each tracker's own documentation says.

    Args:
        key: of the run; one that goes on is the same run to wandb, too.
        decides: what decides the run, kept as its configuration.
    """

    def __init__(self, names: Sequence[str], key: str, decides: Mapping[str, Any]) -> None:
        self._trackers = []
        if names:
            PartialState(cpu=not torch.cuda.is_available())  # its trackers ask whether this is the main process
        for name in names:
            how = {"id": key[:32], "resume": "allow"} if name == "wandb" else {}
            tracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, **how)
            tracker.start()
            tracker.store_init_configuration(dict(decides))
            self._trackers.append(tracker)

    def log(self, numbers: Mapping[str, Any]) -> None:
        values = {name: value for name, value in numbers.items() if isinstance(value, float)}
        for tracker in self._trackers:
            tracker.log(values, step=numbers["step"])

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
