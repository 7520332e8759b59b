"""What is written of a split and read again: logits, parts, kinds of photos, and nothing that says where they are."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from natix_hf.errors import UserError
from natix_hf.runs.saved_logits import read_predictions, write_predictions


def rows(start: int, n: int) -> Dataset:
    numbers = range(start, start + n)
    return Dataset.from_dict(
        {
            "id": [f"r{i}" for i in numbers],
            "group": [f"g{i // 2}" for i in numbers],
            "label": [i % 2 for i in numbers],
            "source": ["real"] * n,
            "width": [1920] * n,
            "height": [1080 if i % 3 else 360 for i in numbers],
            "gps": [f"[{39.7 + i / 100}, -86.1]" for i in numbers],
            "city_name": ["Boston" if i % 3 else "Austin" for i in numbers],
        }
    )


def test_parts_and_kinds_come_back_and_coordinates_were_never_written(tmp_path):
    first, second = rows(0, 12), rows(12, 8)
    logits = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    path = tmp_path / "predictions" / "val_calib.parquet"
    write_predictions(path, [("fit", first, logits[:12]), ("control", second, logits[12:])])
    columns = ["id", "group", "label", "logits", "part", "source", "width", "height"]
    assert pq.read_schema(path).names == [*columns, "slice:city_name", "slice:resolution"]
    assert b"39.7" not in path.read_bytes()
    read = read_predictions(tmp_path, "val_calib", "control")
    assert read.ids.tolist() == second["id"][:]
    np.testing.assert_array_equal(read.logits, logits[12:])
    assert {column: kinds.tolist() for column, kinds in read.slices.items()} == {
        "city_name": second["city_name"][:],
        "resolution": ["1 to 3 MP" if height == 1080 else "0.3 to 1 MP" for height in second["height"][:]],
    }
    assert read.source.tolist() == ["real"] * 8
    assert pq.read_table(path)["height"].to_pylist()[12:] == second["height"][:]
    write_predictions(path, [(None, first, logits[:12])], ["city_name"])
    assert list(read_predictions(tmp_path, "val_calib").slices) == ["city_name"]
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path, "val_test")


def test_a_file_without_kinds_is_read_as_before(tmp_path):
    bare = rows(0, 6).select_columns(["id", "group", "label"])
    write_predictions(tmp_path / "predictions" / "val_test.parquet", [(None, bare, np.zeros((6, 2)))])
    read = read_predictions(tmp_path, "val_test")
    assert read.source is None
    assert read.slices == {}
