"""The proof detects differences, and clients in fresh processes give the same outputs as the run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from natix_hf.documents.export import Proof, SameDecisions
from natix_hf.errors import UserError
from natix_hf.files import read_json, write_json
from natix_hf.hub.export_forms import export_run
from natix_hf.hub.proof import SAME_PROCESS, WITHOUT, prove
from natix_hf.hub.proof_photos import proof_photos
from natix_hf.scenes.photos import encode, scene

PHOTOS = [encode(scene(5, index, (160, 90))) for index in range(6)]
# A client's environment with another transformers; the test of it is left out where there is none.
CLIENT_PYTHON = os.environ.get("NATIX_HF_CLIENT_PYTHON")


@pytest.fixture(scope="module")
def exports(make_base, make_run, tmp_path_factory) -> Path:
    """A run that crops its photos, and two of its forms."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("proof")
    run = make_run(folder / "run", make_base(folder / "base"), resize="crop")
    for form in ("merged", "stock"):
        export_run(run, form, folder / form)
    return folder


@pytest.mark.slow
def test_a_client_in_a_fresh_process_answers_like_the_run(exports):
    """The other forms' clients: `test_adapter_hub.py`, `verbs/test_export.py`."""
    document = prove(
        exports / "run", exports / "stock", photos=PHOTOS, clients=(WITHOUT,), client_python=CLIENT_PYTHON
    )
    assert Proof.read(exports / "stock") == document
    assert document.photos.n == 6
    assert document.model == read_json(exports / "merged" / "export.json")["model"]
    assert [client.client for client in document.clients[:2]] == [SAME_PROCESS, WITHOUT]
    assert "natix_hf" not in document.clients[1].versions
    assert {client.class_ for client in document.clients} == {"TimmWrapperForImageClassification"}
    for client in document.clients:
        assert client.pixels == 0.0
        assert client.logits < 2e-6
        assert client.decisions == SameDecisions(same=6, of=6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["merged", "stock"])
def test_a_pipeline_without_the_package_sees_a_wide_photo_as_the_run_does(form, make_base, make_run, tmp_path):
    pytest.importorskip("timm")
    run = make_run(tmp_path / "run", make_base(tmp_path / "base"), image_size=[32, 64])
    export_run(run, form, tmp_path / form)
    document = prove(run, tmp_path / form, photos=PHOTOS, clients=(WITHOUT,))
    assert [client.client for client in document.clients] == [SAME_PROCESS, WITHOUT]
    for client in document.clients:
        assert client.pixels == 0.0
        assert client.logits < 2e-6
        assert client.probabilities < 1e-6
        assert client.decisions == SameDecisions(same=6, of=6)


def differs(exports: Path, tmp_path: Path, form: str, message: str, change) -> None:
    """Proving a changed copy of an export is refused, and leaves no proof."""
    copy = tmp_path / form
    shutil.copytree(exports / form, copy)
    (copy / "proof.json").unlink(missing_ok=True)
    change(copy)
    with pytest.raises(UserError, match=message) as caught:
        prove(exports / "run", copy, photos=PHOTOS, clients=())
    assert "\n" not in str(caught.value)
    assert not (copy / "proof.json").exists()
    shutil.rmtree(copy)


def test_a_difference_is_named_and_no_proof_is_written(exports, tmp_path):
    def heavier(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["timm_model.head.bias" if "timm_model.head.bias" in weights else "head.bias"] += 0.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def turned(folder: Path) -> None:
        config = read_json(folder / "config.json")
        write_json(folder / "config.json", config | {"label_names": config["label_names"][::-1]})

    def squashed(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        square = {"height": 32, "width": 32}
        write_json(path, read_json(path) | {"do_center_crop": False, "size": square})

    def foreign(folder: Path) -> None:
        write_json(folder / "export.json", read_json(folder / "export.json") | {"format": "tflite"})

    differs(exports, tmp_path, "merged", "format: expected one of .*; found tflite: export the run again", foreign)
    differs(exports, tmp_path, "stock", "logits: expected to differ by at most .*, found up to 0.01", heavier)
    differs(exports, tmp_path, "stock", "None, Roadwork, in this order; found Roadwork, None:", turned)
    differs(exports, tmp_path, "stock", "pixels: expected to differ by at most", squashed)
    differs(exports, tmp_path, "merged", "no export.json", lambda folder: (folder / "export.json").unlink())


def test_a_client_that_cannot_load_is_named_with_its_reason(exports, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'ImportError: no timm here' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(UserError, match=r"client_python .* could not load.*no timm here"):
        prove(exports / "run", exports / "merged", photos=PHOTOS, clients=(), client_python=script)
    with pytest.raises(UserError, match="cannot be started: No such file"):
        prove(exports / "run", exports / "merged", photos=PHOTOS, clients=(), client_python=tmp_path / "none")


def test_photos_are_the_given_ones_else_val_select_else_scenes(exports, make_photos, tmp_path):
    assert proof_photos(exports / "run", PHOTOS).content == PHOTOS
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(UserError, match="none of these can be read"):
        proof_photos(exports / "run", [str(tmp_path / "text.jpg")])
    drawn = proof_photos(exports / "run", count=3)
    assert (drawn.source, len(drawn.content)) == ("generated scenes", 3)
    assert drawn == proof_photos(exports / "run", count=3)

    from natix_hf import load_photos

    photos = make_photos(tmp_path / "photos", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 24)
    run = tmp_path / "run"
    splits = load_photos(str(photos))
    splits.description.write(run)
    (run / "recipe.yaml").write_text(f"dataset_name: {photos}\n")
    found = proof_photos(run, count=4)
    assert found.source == "val_select"
    allowed = {Path(row["image"]["path"]).read_bytes() for row in splits.rows("selection", step="choose checkpoint")}
    assert len(found.content) == 4
    assert set(found.content) <= allowed
    # A photo more, and the split is another: the run's val_select is not known any more.
    Image.new("RGB", (64, 48), (3, 4, 5)).save(photos / "None" / "new.jpg")
    drawn = proof_photos(run, count=2)
    assert drawn.source == "generated scenes"
    assert "does not have the photos" in drawn.reason
    (photos / "None" / "new.jpg").unlink()

    moved = photos.rename(tmp_path / "moved")
    gone = proof_photos(run, count=4)
    assert gone.source == "generated scenes"
    assert gone.reason.endswith("give --dataset_name, where the run's photos are now, or --photos with others")
    again = proof_photos(run, count=4, dataset_name=str(moved))
    assert (again.source, again.content) == ("val_select", found.content)
    others = make_photos(tmp_path / "others", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 12)
    for place in (others, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=rf"{place}.*: give --dataset_name, .* or --photos with others"):
            proof_photos(run, count=4, dataset_name=str(place))


def test_the_photos_of_a_fold_are_found_again_by_every_key_of_its_recipe(exports, make_photos, tmp_path):
    """`test_on` was missing from a copy of the list of keys, so that a fold's proof took scenes without a word."""
    from natix_hf import load_photos

    photos = make_photos(tmp_path / "photos", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 24)
    rows = ["file_name,label,city"]
    for path in sorted(photos.rglob("*.jpg")):
        city = ("Boston", "Oslo", "Rome")[int(path.stem[-2:]) % 3]
        rows.append(f"{path.relative_to(photos).as_posix()},{path.parent.name},{city}")
    (photos / "metadata.csv").write_text("\n".join(rows) + "\n")
    run, keys = tmp_path / "run", {"test_on": ["city=Oslo"], "split_seed": 3, "near_duplicates": False}
    splits = load_photos(str(photos), **keys)
    splits.description.write(run)
    write_json(run / "recipe.yaml", {"dataset_name": str(photos), **keys})  # JSON is YAML
    assert proof_photos(run, count=4).source == "val_select"


def test_a_proof_with_generated_scenes_says_why(exports, tmp_path):
    shutil.copytree(exports / "merged", tmp_path / "export")
    lines = []
    document = prove(exports / "run", tmp_path / "export", clients=(), say=lines.append)
    assert document.photos.source == "generated scenes"
    assert len(lines) == 1
    assert "scenes are generated, because the run's photos of val_select are not available: " in lines[0]
    assert lines[0].endswith("has no splits.json")
    assert str(exports) not in (tmp_path / "export" / "proof.json").read_text()  # which is published


def test_the_keys_that_find_photos_are_keys_of_a_recipe_and_all_that_load_photos_takes():
    from dataclasses import fields
    from inspect import Parameter, signature

    from natix_hf.data.data_options import DataOptions
    from natix_hf.data.load_photos import PLAN_KEYS, SOURCE_KEYS, load_photos
    from natix_hf.data.sources.rows import load_rows
    from natix_hf.modeling.model_options import ModelOptions

    recipe = {field.name for options in (DataOptions, ModelOptions) for field in fields(options)}
    assert {*SOURCE_KEYS, *PLAN_KEYS} <= recipe
    for function in (load_photos, load_rows):
        named = {name for name, one in signature(function).parameters.items() if one.kind is Parameter.KEYWORD_ONLY}
        # positive_label is about descriptions there, which class they describe; in a recipe it is about figures.
        assert (named & recipe) - {"positive_label"} <= {*SOURCE_KEYS, *PLAN_KEYS}
