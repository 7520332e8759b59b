"""Newer Pythons read every file of the package, where they are installed. Their libraries need not be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "natix_hf"
READ = """
import importlib, pathlib, sys, warnings
warnings.simplefilter("error")  # a SyntaxWarning becomes an error in a later Python
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    compile(path.read_bytes(), str(path), "exec")
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
for name in sys.argv[2:]:
    importlib.import_module(name)
print("all read")
"""
PLAIN = ["natix_hf.errors", "natix_hf.files", "natix_hf.startup", "natix_hf.completion"]  # import no other library


def interpreter(version: str) -> str | None:
    """One that runs; a shim of pyenv may be there for a version that is not chosen."""
    for name in (shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        if name and subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(name)
    return None


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_a_newer_python_reads_every_file(version):
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        pytest.skip("this is the Python of the suite")
    if (python := interpreter(version)) is None:
        pytest.skip(f"Python {version} is not installed")
    done = subprocess.run([python, "-B", "-c", READ, PACKAGE, *PLAIN], capture_output=True, text=True, check=False)
    assert done.stdout == "all read\n", done.stderr
