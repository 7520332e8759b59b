"""A recipe with tiles, typed as a command: what it refuses and tells, and a run of it from photos to predictions."""

from __future__ import annotations

import csv

import pytest

from natix_hf.data.data_options import DataOptions
from natix_hf.errors import UserError
from natix_hf.recipe.yaml_and_command_line import parse

TILES = ("--views", "tiles", "--views_grid", "2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--views_grid", "0"), "views_grid: expected rows and columns of which one is at least 2, found 0 0"),
        (("--views_overlap", "1"), "views_overlap: expected a share from 0 to below 1, found 1"),
        (("--views_top_k", "5"), "views_top_k: expected at most 4, the number of tiles; found 5: use --views_top_k 2"),
        (("--views_top_k", "0"), "views_top_k: expected at least 1, found 0"),
        (("--views_aggregate", "most"), "invalid choice: 'most' (choose from 'top_k', 'mean', 'attention')"),
        (("--resize", "crop"), "tiles need the whole photo, but resize is crop: use --resize squash"),
        (
            ("--views_train", "sampled"),
            "views_sampled: expected 2 to 3 of the 4 tiles, found 0: use --views_s",
        ),
        (
            ("--views_train", "sampled", "--views_sampled", "4"),
            "views_sampled: expected 2 to 3 of the 4 tiles, found 4",
        ),
        (
            ("--push_to_hub", "true", "--hub_format", "stock"),
            "hub_format: stock cannot hold views: tiles: change it",
        ),
        (("--push_to_hub", "true", "--hotkey", "5" * 48), "StreetVision's stock model cannot hold views: tiles"),
    ],
)
def test_a_recipe_of_tiles_that_cannot_be_is_refused_in_one_line(words, told, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model_name_or_path: m\ndataset_name: p\noutput_dir: run\nviews: tiles\nviews_grid: 2\n"
        "hub_model_id: me/streets\n"
    )
    with pytest.raises(UserError) as refused:
        parse([str(recipe), *words])
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def told(method: str = "lora", **values) -> str | None:
    return DataOptions(**values).without_effect(method)


def test_keys_of_tiles_that_nothing_reads_are_told():
    assert told() is None
    assert told(views="tiles", views_grid=[2, 4], views_overlap=0.0, views_train="sampled", views_sampled=3) is None
    assert told(views_grid=[2], views_top_k=1) == "views_grid, views_top_k without effect, views is whole"
    assert told(views="tiles", views_aggregate="mean", views_top_k=3) == (
        "views_top_k without effect, views_aggregate is mean"
    )
    assert told("probe", views="tiles", views_train="sampled", views_sampled=3) == (
        "views_train, views_sampled without effect, a probe keeps the features of all tiles"
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["probe", "lora"])
def test_a_run_on_tiles_from_photos_to_predictions(method, desk):
    words = (*TILES, "--method", method, *(("--probe_heads", "grid") if method == "probe" else ()))
    result = desk.type("train", desk.recipe, *words, "--output_dir", desk.folder / "tiled")
    assert result.status == 0, result.err
    result = desk.type("predict", desk.folder / "tiled", desk.folder / "photos", "--output", desk.folder / "p.csv")
    assert result.status == 0, result.err
    with (desk.folder / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(0 <= float(row["p_Roadwork"]) <= 1 for row in rows)
    assert (desk.folder / "tiled" / "image_processing_natix_dinov3.py").is_file()
