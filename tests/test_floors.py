"""The house stands as DESIGN draws it: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "natix_hf"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
VERBS = ("train", "calibrate", "recalibrate", "evaluate", "sweep", "folds", "compare", "predict", "export", "demo")
VERBS += ("data/__main__",)

FREE = {"documents", "errors", "files", "resampling", "threads"}  # know nothing, anybody may use them
GROUND = {"photos", "modeling", "decision", "report", "scenes"}
FIRST = {"data", "streetvision", "inference"}
SECOND = {"training", "hub"}
# Room -> the rooms that it may import besides the free ones and itself. The package's own name stands for its version.
BELOW = {
    **{room: set() for room in sorted(GROUND)},
    "documents": set(),
    "data": {"photos", "scenes"},
    "streetvision": {"photos", "report"},
    "inference": {"photos", "modeling", "decision", "data", "streetvision"},
    "hub": GROUND | FIRST,
    "training": GROUND | FIRST | {"recipe"},
    "runs": GROUND | FIRST | SECOND | {"recipe", "__init__"},
    "recipe": GROUND | FIRST | SECOND,
    "assets": {"scenes", "modeling"},
}


def imported(path: Path) -> set[str]:
    """The rooms (or single files) of natix_hf that a file imports, at its top or within functions."""
    rooms = set()
    module = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*module[: len(module) - node.level], *filter(None, [node.module])])
            base = base if node.level else node.module
            # `from natix_hf import x` and `from natix_hf.training import run_folder` name a module or a value of one.
            names = [f"{base}.{alias.name}" for alias in node.names] if base.count(".") < 1 else [base]
        for name in (name.split(".") for name in names if name.split(".")[0] == "natix_hf"):
            room = name[1] if len(name) > 1 else "__init__"
            there = (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()
            rooms.add(room if there else "__init__")
    return rooms


def test_the_imports_of_this_test_are_read_rightly(tmp_path):
    assert imported(PACKAGE / "runs" / "finish_run.py") >= {"data", "decision", "files", "hub", "report"}
    assert imported(PACKAGE / "runs" / "folder.py") >= {"__init__", "files"}
    assert imported(PACKAGE / "modeling" / "modeling_natix_dinov3.py") == {"modeling"}
    assert imported(PACKAGE / "train.py") >= {"recipe", "runs", "data", "inference"}


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_rooms_on_floors_below(room):
    allowed = FREE | BELOW[room] | {room}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        if path.stem == "__main__":
            continue  # a verb, though it stands in a room
        above = imported(path) - allowed
        assert not above, f"{path.relative_to(PACKAGE)} imports {above}"


def test_every_room_stands_on_a_floor():
    rooms = {path.parent.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert rooms == set(BELOW)


def test_nobody_imports_a_verb():
    for path in FILES:
        assert not imported(path) & set(VERBS), path.relative_to(PACKAGE)


def test_the_files_that_everybody_may_import_import_nobody():
    assert imported(PACKAGE / "errors.py") == {"startup"}  # which a command runs first
    assert imported(PACKAGE / "startup.py") == {"progress_lines"}
    assert imported(PACKAGE / "progress_lines.py") == set()
    assert imported(PACKAGE / "files.py") <= {"errors"}


def test_the_code_that_travels_with_the_weights_imports_its_siblings_and_the_hub_s_libraries_only():
    allowed = {"__future__", "collections", "dataclasses", "hashlib", "importlib", "json", "math", "pathlib", "re"}
    allowed |= {"typing", "torch", "transformers"}
    for path in sorted((PACKAGE / "modeling").glob("*_natix_dinov3.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, path.name
                assert node.module, f"{path.name}: `from . import x` is not copied along"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert name.split(".")[0] in allowed, name


def test_no_file_is_over_400_lines_and_the_median_is_short():
    tests = list((PACKAGE.parent / "tests").rglob("*.py"))
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*FILES, *tests)}
    assert not {str(path): count for path, count in lengths.items() if count > 400}
    assert sorted(lengths[path] for path in FILES)[len(FILES) // 2] < 200


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_short_and_opens_with_the_command_that_runs_it(verb):
    text = (PACKAGE / f"{verb}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert f"-m natix_hf.{verb.removesuffix('/__main__')}" in ast.get_docstring(ast.parse(text))


def test_no_file_is_called_after_what_it_is_not():
    assert not {path.stem for path in FILES} & {"utils", "helpers", "common", "misc", "base"}
