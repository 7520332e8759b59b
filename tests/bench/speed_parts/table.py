"""The table of `speed.py`, in Markdown and JSON: printed and written line by line, earlier lines kept.

It knows nothing of how a line is measured.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

HEADER = ["| line | ratio | target | how |", "|---|---|---|---|"]


def setting(photos: int, size: tuple[int, int]) -> str:
    """What the figures of a run depend on, in one line: processor, cores, GPU, versions, photos."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{processor}, {os.cpu_count()} cores{gpu}; {versions}; {photos:,} photos of {size[0]}x{size[1]}"


class Table:
    """The lines measured so far, in `folder/speed.json` and `folder/speed.md`.

    A line that is not measured again stays, and names its setting where that is another than this run's.
    """

    def __init__(self, folder: Path, lines: dict[str, tuple[str, str]], here: str) -> None:
        """Where to write, `{name: (what, target)}` in the table's order, and the setting of this run."""
        folder.mkdir(parents=True, exist_ok=True)
        self.json, self.markdown, self.lines, self.here = folder / "speed.json", folder / "speed.md", lines, here
        self.found = json.loads(self.json.read_text(encoding="utf-8")) if self.json.exists() else {}
        print("\n".join([here, "", *HEADER]), flush=True)

    def add(self, name: str, ratio: float, how: str) -> None:
        """A line that was measured; what it was before is gone."""
        self._keep(name, {"ratio": ratio, "target": self.lines[name][1], "how": how, "setting": self.here})

    def fail(self, name: str, error: Exception) -> None:
        """A line that went wrong; an earlier figure stays beside the error."""
        earlier = self.found.get(name, {"target": self.lines[name][1]})
        self._keep(name, {**earlier, "error": " ".join(f"{type(error).__name__}: {error}".split())})

    def skip(self, name: str, reason: str) -> None:
        """A line that this run cannot measure: printed, and nothing is changed."""
        print(self._row(name, {"error": reason}), flush=True)

    def _keep(self, name: str, entry: dict[str, Any]) -> None:
        print(self._row(name, entry), flush=True)
        self.found[name] = entry
        self.json.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
        rows = [self._row(line, self.found[line]) for line in self.lines if line in self.found]
        self.markdown.write_text("\n".join([self.here, "", *HEADER, *rows]) + "\n", encoding="utf-8")

    def _row(self, name: str, entry: dict[str, Any]) -> str:
        what, target = self.lines[name]
        ratio, how = f"{entry['ratio']:.2f}" if "ratio" in entry else "-", entry.get("how", "")
        if "ratio" in entry and entry.get("setting") != self.here:
            how += f"; run on: {entry.get('setting', 'unknown')}"
        if "error" in entry:
            ratio, how = "-", entry["error"] + (f"; before that {ratio}, {how}" if "ratio" in entry else "")
        return f"| {what} | {ratio} | {target} | {how.replace('|', '/')} |"
