"""Imports go down only: serve -> pipelines -> longvie. And the method runs where Ray is not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "longvie": {"ray", "fastapi", "starlette", "uvicorn", "sqlalchemy", "typer", "rich", "pipelines", "serve"},
    "pipelines": {"fastapi", "starlette", "uvicorn", "sqlalchemy", "serve"},
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_down_only(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): bad for file in files if (bad := imported(file) & FORBIDDEN[package])}
    assert not wrong


def test_the_method_imports_without_ray() -> None:
    block = "import sys; sys.modules['ray'] = None; import longvie; print(len(longvie.__all__))"
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 20, "longvie's public face is some fifteen names"


def test_the_door_needs_no_torch() -> None:
    """An API replica takes requests, not gigabytes."""
    block = "import sys; import serve.api; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_files_stay_small() -> None:
    sizes = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for package in ("longvie", "pipelines", "serve")
        for file in (ROOT / package).rglob("*.py")
    }
    assert not {name: lines for name, lines in sizes.items() if lines > 400}
