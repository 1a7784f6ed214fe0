from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from moto.server import ThreadedMotoServer

from tests.toy import save_toy_pipeline

torch.set_num_threads(1)  # as in a worker; on a busy machine two threads that wait for each other are far slower
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def own_attention_backend() -> Iterator[None]:
    """A model's `set_attention_backend` holds for every model of the process; here, for one test."""
    with attention_backend("native"):
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs, weights and outputs of the released model at a tiny size; not part of the public repository."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("the reference numbers of the released model (../shared/golden) are not here")
    return folder


@pytest.fixture(scope="session")
def ride_horse() -> Path:
    """The authors' own example controls, ten segments; they carry no licence, so they are not in the repository."""
    folder = SHARED / "examples" / "ride_horse"
    if not folder.is_dir():
        pytest.skip("the authors' example controls (../shared/examples/ride_horse) are not here")
    return folder


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete pipeline with random weights in diffusers layout: 9 frames a segment, 32x48 pixels, 2 steps."""
    return save_toy_pipeline(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket on moto's server, reached as any S3: through the environment."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    fsspec.filesystem("s3").mkdir("ours")
    yield "s3://ours"
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()
