"""Bad photos, recipes and checkpoints, typed as a user does: one line that says how to mend it, exit status 2."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from warm import Warm

pytestmark = pytest.mark.slow


# -- photos -----------------------------------------------------------------------------------------------------------


def test_an_empty_folder(desk, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no photos" in desk.train("--dataset_name", tmp_path / "empty")


def test_ratios_that_are_not_four_shares_of_one(desk):
    assert "four positive numbers that sum to 1" in desk.train("--split_ratios", "0.8", "0.2")


@pytest.mark.parametrize("key", ["label_column_name", "group_column", "image_column_name"])
def test_a_missing_column(desk, photo_folder, key):
    rows = "".join(f"{path},{path.parent.name}\n" for path in sorted(photo_folder.rglob("*.jpg")))
    (photo_folder / "table.csv").write_text(f"pictures,class\n{rows}")
    right = {"image_column_name": "pictures", "label_column_name": "class", key: "camera"}
    line = desk.train(*(word for name, column in right.items() for word in (f"--{name}", column)))
    assert "'camera'" in line
    assert "class" in line


def broken(folder: Path) -> list[str]:
    """Make three photos of a folder unreadable in different ways; returns their names in it."""
    first, second, third = sorted((folder / "None").iterdir())[:3]
    first.write_bytes(first.read_bytes()[:400])
    second.write_bytes(b"")
    third.write_text("not a photo")
    return [f"None/{path.name}" for path in (first, second, third)]


def test_broken_photos_are_refused_with_their_names_and_the_mend(desk, photo_folder):
    names = broken(photo_folder)
    line = desk.train()
    assert "3 of 48 photos cannot be read" in line
    assert all(name in line for name in names)
    assert "remove them or set broken_photos: skip" in line


def test_broken_photos_can_be_left_out_and_unusual_ones_are_trained_on(desk, photo_folder):
    from PIL import Image

    names = broken(photo_folder)
    target = photo_folder / "Roadwork"
    colour = Image.new("RGB", (40, 30), (200, 90, 40))
    Image.new("I;16", (40, 30), 40_000).save(target / "deep.png")
    colour.convert("CMYK").save(target / "print.jpg")
    colour.convert("P").save(target / "palette.gif")
    colour.convert("RGBA").save(target / "alpha.png")
    colour.convert("L").save(target / "grey.jpg")
    colour.convert("LA").save(target / "grey_alpha.png")
    colour.save(target / "moving.gif", save_all=True, append_images=[colour.rotate(90)])
    colour.resize((1, 1)).save(target / "dot.png")
    colour.resize((1, 60)).save(target / "line.jpg")
    result = desk.type("train", desk.recipe, "--broken_photos", "skip")
    assert result.status == 0, result.err
    assert "3 cannot be read and are left out" in result.out
    splits = json.loads((desk.output / "splits.json").read_text())
    assert sorted(photo["id"] for photo in splits["broken"]) == names
    assert sum(splits["sizes"].values()) == 45 + 9
    used = {name for ids in splits["ids"].values() for name in ids}
    assert {f"Roadwork/{path.name}" for path in target.iterdir()} <= used


# -- recipe, paths, machine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--dataset_name", "/not/here"), "no such file or folder: /not/here"),
        (("--model_name_or_path", "./not-here"), "no such file or folder"),
        (("--image_size", "40"), "expected a multiple of the checkpoint's patch size 16"),
        (("--image_size", "0"), "image_size: expected one number (a square) or height and width, found 0"),
        (
            ("--image_size", "32", "64", "3"),
            "image_size: expected one number (a square) or height and width, found 32 64 3",
        ),
        (("--image_size", "wide"), "argument --image_size/--image-size: invalid int value: 'wide'"),
        (("--report_to", "pigeon"), "pigeon is not supported"),
        (("--positive_label", "Cat"), "the classes are None, Roadwork"),
    ],
    ids=lambda value: "_".join(value[:3]).replace("--", "").replace("/", "_") if isinstance(value, tuple) else "",
)
def test_a_value_that_fits_nothing_here(module_desk, words, expected):
    assert expected in module_desk.train(*words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--optim", "sophia"), "attn_implementation 'auto' has none: set attn_implementation: eager"),
        (
            ("--curriculum", "loss", "--curriculum_start", "0.1", "--num_train_epochs", "4"),
            "curriculum_start: expected at least 0.276, found 0.1: of 29 photos that is 3, less than the 8 of one",
        ),
    ],
    ids=lambda value: "_".join(value[:2]).replace("--", "") if isinstance(value, tuple) else "",
)
def test_a_way_of_training_that_cannot_be(module_desk, words, expected):
    assert expected in module_desk.train(*words)


@pytest.mark.parametrize("term", ["lcron", "supcon"])
def test_batches_with_nothing_to_compare_are_told_once_and_cost_nothing(module_desk, term):
    """Of two photos each: many are of one class."""
    words = ("--loss", f"ce+{term}", "--per_device_train_batch_size", "2", "--eval_strategy", "no")
    output = module_desk.folder / term
    status, out, err = module_desk.type("train", module_desk.recipe, *words, "--output_dir", output)
    assert status == 0, err
    told = [line for line in out.splitlines() if "warning" in line]
    assert len(told) == 1, out
    assert told[0].startswith(f"warning: loss ce+{term}: a batch of 2 photos has ")
    assert f"{term} is 0 there" in told[0]
    assert "nan" not in out.lower().replace(str(output), "")


def test_a_class_that_train_lacks_cannot_be_ranked_first(module_desk):
    words = ("--label_names", "None", "Roadwork", "Cone", "--positive_label", "Cone", "--loss", "ce+lcron")
    line = module_desk.train(*words)
    assert "Cone" in line


def test_an_option_of_a_loss_that_is_not_chosen_gets_one_line(module_desk):
    words = (
        "--method",
        "probe",
        "--focal_gamma",
        "3",
        "--sam_rho",
        "0.1",
        "--output_dir",
        module_desk.folder / "idle",
    )
    status, out, err = module_desk.type("train", module_desk.recipe, *words)
    assert status == 0, err
    assert [line for line in out.splitlines() if "warning" in line] == [
        "warning: focal_gamma without effect, loss ce has no focal; sam_rho without effect, optim is adamw_torch_fused"
    ]
    assert "missing keys" not in out + err  # of the best checkpoint, which holds what a probe trains


def test_a_recipe_that_is_not_there(desk, tmp_path):
    assert desk.refusal("train", tmp_path / "no.yaml").endswith("no recipe of the package has this name")
    assert "no recipe given" in desk.refusal("train")


WITHOUT_TRACKIO = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "trackio" else find(name, *rest)
"""


def test_a_tracker_that_is_not_installed(desk):
    assert "trackio to be installed" in desk.train("--report_to", "trackio", prelude=WITHOUT_TRACKIO)


NO_WAITING = "import time\ntime.sleep = lambda seconds: None"  # between two tries of the Hub's client


class GatedHub(BaseHTTPRequestHandler):
    """Refuses everything, as the Hub does to somebody who has not accepted a licence."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Quiet."""


def test_a_hub_that_wants_a_licence_accepted_and_then_is_gone(desk):
    server = ThreadingHTTPServer(("127.0.0.1", 0), GatedHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(desk.folder / "hf")}
    with Warm(**hub) as desk.warm:
        line = desk.train("--model_name_or_path", "facebook/dinov3", **hub)
        assert "is gated" in line
        place = f"{hub['HF_ENDPOINT']}/facebook/dinov3"
        assert f"accept its licence at {place}, then run `hf auth login` or set HF_TOKEN" in line
        server.shutdown()
        server.server_close()
        for key in ("model_name_or_path", "dataset_name"):
            line = desk.train(f"--{key}", "some/thing", prelude=NO_WAITING, **hub)
            assert "reached" in line
            assert "folder" in line
