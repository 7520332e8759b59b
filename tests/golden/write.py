"""Write the golden values anew, or show what has changed in them.

python tests/golden/write.py             writes tests/golden/*.json, for a change that is meant (say why in the commit)
python tests/golden/write.py --compare   prints every difference, however small, and writes nothing
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from golden_runs import HERE, METHODS, differences, golden_run, written


def main() -> None:
    compare = "--compare" in sys.argv[1:]
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            found = golden_run(method, Path(folder))
        if compare:
            lines = differences(found, written(method), 0.0)
            print(f"{method}: {'identical' if not lines else f'{len(lines)} differences'}", *lines, sep="\n  ")
        else:
            (HERE / f"{method}.json").write_text(json.dumps(found, indent=1) + "\n")
            print(f"{method}.json")


if __name__ == "__main__":
    main()
