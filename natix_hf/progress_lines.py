"""Progress bars for files and pipes (CI, nohup, tee): a bar prints a line from time to time.

All bars of a command are tqdm's: our own, and those of datasets, transformers and huggingface_hub, which derive from
tqdm's class. This module changes that class in the process of a command; a script that imports the package keeps it.
"""

from __future__ import annotations

SECONDS = 30.0  # between two lines of a bar


def bars_as_lines(seconds: float = SECONDS) -> None:
    """Let every tqdm bar of this process print a line every `seconds`, and one when it ends.

    The lines of a bar that disappears at the end (`leave=False`) remain.
    """
    from tqdm.std import tqdm

    def text(bar: tqdm) -> str:
        return bar.format_meter(**{**bar.format_dict, "ncols": 0})  # without the bar itself

    def display(bar: tqdm, msg: str | None = None, pos: int | None = None) -> bool:
        now = bar._time()
        if msg is not None:  # "" removes a bar
            return False
        if bar.disable:  # the bar ends, and tqdm ends the line
            bar.fp.write(text(bar))
        elif bar.last_line is None:
            bar.last_line = now
        elif now - bar.last_line >= seconds:
            bar.last_line = now
            bar.fp.write(text(bar) + "\n")
            bar.fp.flush()
        return True

    tqdm.last_line = None  # time at which a bar last wrote a line
    tqdm.display = display
    tqdm.clear = lambda bar, nolock=False: None  # nothing to make room for
    tqdm.moveto = lambda bar, n: None  # each line is below the last
