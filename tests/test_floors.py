"""Rooms import only rooms on the floors below them. What only type checking imports counts like the rest."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "natix_hf"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
# Files that run under `command`. `scenes/photos.py` does too, and is imported: it is at home in its room.
VERBS = [
    path
    for path in FILES
    if "    command(main)\n" in path.read_text(encoding="utf-8")
    and (path.parent == PACKAGE or path.stem == "__main__")
]

# Know nothing, free to all.
FREE = {"cpu_tricks", "documents", "errors", "files", "logits", "options", "resampling", "startup", "threads"}
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
    "training": GROUND | FIRST,
    "runs": GROUND | FIRST | SECOND | {"__init__"},
    "recipe": GROUND | FIRST | SECOND | {"runs"},
}


def module_name(path: Path) -> str:
    """`natix_hf/runs/folder.py` -> `natix_hf.runs.folder`; a room's `__init__.py` is the room."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The modules of natix_hf that a file imports, at its top, within functions or for type checking."""
    modules = set()
    package = path.parent.relative_to(PACKAGE.parent).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            # `from natix_hf.runs import folder` names a module, `from natix_hf import __version__` a value of one.
            names = [name if (name := f"{base}.{alias.name}") in MODULES else base for alias in node.names]
        modules |= {name for name in names if name.split(".")[0] == "natix_hf"}
    return modules


def rooms(path: Path) -> set[str]:
    """The rooms (or single files) of natix_hf that a file imports; a sub-folder belongs to its room."""
    return {name.split(".")[1] if "." in name else "__init__" for name in imported(path)}


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of modules that all import each other, over whatever detours.

    Args:
        imports: module -> those that it imports.
    """
    reached: dict[str, set[str]] = {}
    for module in imports:
        reached[module], left = set(), [module]
        while left:
            new = imports.get(left.pop(), set()) - reached[module]
            reached[module] |= new
            left += new
    around = {frozenset(m for m in reached[module] if module in reached[m]) for module in imports}
    return [set(circle) for circle in around if circle]


def test_the_imports_of_this_test_are_read_rightly():
    assert rooms(PACKAGE / "runs" / "finish_run.py") >= {"documents", "report", "training"}
    assert rooms(PACKAGE / "runs" / "provenance.py") >= {"__init__"}
    assert rooms(PACKAGE / "modeling" / "modeling_natix_dinov3.py") == {"modeling"}
    assert rooms(PACKAGE / "train.py") >= {"recipe", "runs", "data", "inference"}
    assert "natix_hf.modeling.adapter_natix_dinov3" in imported(PACKAGE / "modeling" / "modeling_natix_dinov3.py")
    assert imported(PACKAGE / "data" / "splits" / "growing.py") >= {"natix_hf.data.sources.known_sources"}
    for path in FILES:
        assert imported(path) <= set(MODULES), path


def test_a_circle_is_found_whatever_hangs_on_it():
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d", "f"}, "f": set(), "g": {"a", "f"}}
    assert sorted(map(sorted, circles(imports))) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other_in_a_circle():
    found = circles({module: imported(path) for module, path in MODULES.items()})
    assert not [sorted(circle) for circle in found]


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_rooms_on_floors_below(room):
    allowed = FREE | BELOW[room] | {room}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        if path not in VERBS:
            above = rooms(path) - allowed
            assert not above, f"{path.relative_to(PACKAGE)} imports {above}"


def test_every_room_stands_on_a_floor():
    assert {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE} == set(BELOW)


def test_nobody_imports_a_verb():
    assert {"train", "publish", "data"} <= {module_name(path).split(".")[1] for path in VERBS}
    for path in FILES:
        assert not imported(path) & set(map(module_name, VERBS)), path.relative_to(PACKAGE)


def test_the_files_that_everybody_may_import_import_nobody():
    assert rooms(PACKAGE / "errors.py") == {"cpu_tricks", "startup"}  # which a command runs first
    assert rooms(PACKAGE / "startup.py") == {"cpu_tricks", "progress_lines"}
    assert rooms(PACKAGE / "cpu_tricks.py") == set()
    assert rooms(PACKAGE / "progress_lines.py") == set()
    assert rooms(PACKAGE / "files.py") <= {"errors"}


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


@pytest.mark.parametrize("verb", VERBS, ids=module_name)
def test_a_verb_is_short_and_opens_with_the_command_that_runs_it(verb):
    text = verb.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert f"-m {module_name(verb).removesuffix('.__main__')}" in ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("room", sorted(GROUND | {"data"}))
def test_only_rooms_above_streetvision_know_the_network(room):
    for path in (PACKAGE / room).rglob("*"):
        if path.suffix in (".py", ".jinja") and path.name != "data_options.py":  # the choices of the key `augment`
            text = path.read_text(encoding="utf-8").lower()
            assert not [word for word in ("streetvision", "hotkey", "validators", "challenge@") if word in text], path


def test_no_file_is_called_after_what_it_is_not():
    assert not {path.stem for path in FILES} & {"utils", "helpers", "common", "misc", "base"}
