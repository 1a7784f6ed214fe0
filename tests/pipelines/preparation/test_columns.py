"""The tables: equal rows give equal bytes, and every column says what it means."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from pipelines.preparation import columns

ROW = {"source": "a.mp4", "stage": "scan", "unit": "file", "error": "broken", "attempts": 1}


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert columns.write_table(tmp_path / name, iter([ROW] * 3000), columns.ERRORS) == 3000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pyarrow.parquet.read_table(tmp_path / "a").to_pylist() == [ROW] * 3000


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    assert columns.write_table(tmp_path / "a", [], columns.STATS) == 0
    assert pyarrow.parquet.read_schema(tmp_path / "a").names == columns.STATS.names


def test_rows_of_another_kind_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowException, ValueError, TypeError)):
        columns.write_table(tmp_path / "a", [{**ROW, "attempts": "often"}], columns.ERRORS)


@pytest.mark.parametrize("schema", [columns.VIDEOS, columns.SEGMENTS, columns.STATS, columns.ERRORS])
def test_every_column_is_documented(schema: pa.Schema) -> None:
    assert all(field.metadata and b"meaning" in field.metadata for field in schema)
