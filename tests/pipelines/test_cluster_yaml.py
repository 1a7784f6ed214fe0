"""cluster.yaml is what Ray's launcher takes, each choice has its reason, jobs are submitted as documented."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.cluster import capacity
from tests.pipelines.helpers import NUM_SEGMENTS, Inputs

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_rays_own_schema(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config({**config, "nonsense": 1}))


def test_the_three_kinds_of_node(config: dict[str, Any]) -> None:
    nodes = config["available_node_types"]
    resources = {name: node["resources"] for name, node in nodes.items()}
    assert resources["head"] == {"CPU": 0, "GPU": 0}, "the head does no work"
    assert "GPU" not in resources["prepare"]
    generation = {"CPU": 1, "GPU": 1}
    assert capacity([resources["generate"]], generation) == 1
    assert capacity([resources["head"], resources["prepare"]], generation) == 0
    for name in ("prepare", "generate"):
        assert nodes[name]["min_workers"] == 0, "nothing is paid for while nothing runs"
    assert sum(nodes[name]["max_workers"] for name in ("prepare", "generate")) <= config["max_workers"]


def test_what_is_sent_and_who_may_enter(config: dict[str, Any]) -> None:
    assert all("RAY_AUTH_MODE=token" in config[f"{role}_start_ray_commands"][-1] for role in ("head", "worker"))
    for folder in (".venv", "out", ".git"):
        assert f"{folder}/**" in config["rsync_exclude"]


def test_every_choice_is_commented() -> None:
    """Above each setting, or above the group it opens with, stands its reason."""
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    exempt = re.compile(
        r"\s*(provider|auth|available_node_types|file_mounts|node_config|BlockDeviceMappings|type|- DeviceName)\b.*"
    )
    exempt_groups = re.compile(r"\S*(setup_commands|start_ray_commands|head|prepare|generate):$")
    bare = []
    for before, line in zip(["", *lines], lines, strict=False):
        setting = re.match(r"\s*(- )?[\w$'\"]", line) and not line.lstrip().startswith("#")
        continued = before.rstrip().endswith(">-") or line.lstrip().startswith("--")
        if not setting or continued or exempt.fullmatch(line) or exempt_groups.fullmatch(line.strip()):
            continue
        if not before.lstrip().startswith("#"):
            bare.append(line)
    assert not bare


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass(frozen=True, kw_only=True)
class Head:
    dashboard: str
    environment: dict[str, str]  # of whoever may talk to it


@pytest.fixture
def head() -> Iterator[Head]:
    """A head of our own on free ports, with a token of its own; only what it started ends with it."""
    port, dashboard, client, agent = free_ports(4)
    session = tempfile.mkdtemp(prefix="lv-", dir="/tmp")  # short: socket names have little room
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": session,
    }
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={session}"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--include-dashboard=true"]
    command += [f"--dashboard-agent-listen-port={agent}"]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(address, started)
        yield Head(dashboard=address, environment=environment)
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)
        shutil.rmtree(session, ignore_errors=True)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until something answers at the address, be it with a refusal."""
    for _ in range(240):
        assert process.poll() is None, "the head has ended"
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.25)
        else:
            return
    raise AssertionError(f"nothing answers at {address}")


def documented_runtime_env() -> str:
    found = re.search(r"--runtime-env-json '(\{.*?\})'", (ROOT / "docs" / "cluster.md").read_text())
    assert found, "docs/cluster.md says how to submit"
    return found.group(1)


def test_a_submitted_job(head: Head, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    """As documented: the code travels, the environment and the outputs do not, and the job joins the cluster."""
    checkout = tmp_path / "checkout"
    for package in ("longvie", "pipelines"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__", "tiny"))
    for unwanted in (".venv/bin", "out/demo"):
        (checkout / unwanted).mkdir(parents=True)
        (checkout / unwanted / "large").write_bytes(b"x" * 1000)
    source = inputs.manifest(tmp_path, inputs.row())
    generate = f"{sys.executable} -m pipelines.cli generate {source} --out {tmp_path / 'out'} --model {toy_folder}"
    submit = [BIN / "ray", "job", "submit", "--address", head.dashboard, "--working-dir", checkout]
    submit += ["--runtime-env-json", documented_runtime_env(), "--"]
    submit += ["sh", "-c", f"ls -a; {generate} --log-format json"]
    done = subprocess.run(submit, env=head.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    listing = {line.strip() for line in done.stdout.splitlines()}
    assert {"longvie", "pipelines"} <= listing
    assert not {".venv", "out"} & listing
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"time"')]
    assert [event["event"] for event in events].count("segment") == NUM_SEGMENTS
    assert events[-1]["done"] == 1
    assert (tmp_path / "out" / "a" / "video.mp4").is_file()
