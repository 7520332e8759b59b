"""Progress bars where nobody watches them: in a file or a pipe (CI, nohup, tee) a bar is a line from time to time.

All bars of a command are tqdm's: its own, and those of datasets, transformers and huggingface_hub, which derive from
tqdm's class. That class is changed here, for the process of a command; a script that imports the package keeps it.
"""

from __future__ import annotations

SECONDS = 30.0  # between two lines of one bar


def bars_as_lines(seconds: float = SECONDS) -> None:
    """From now on every tqdm bar of this process writes a line each `seconds` and one when it ends.

    A bar that is taken away when it ends (`leave=False`) leaves the lines that it has written, if it took so long.
    """
    from tqdm.std import tqdm

    def text(bar: tqdm) -> str:
        return bar.format_meter(**{**bar.format_dict, "ncols": 0})  # without the bar itself

    def display(bar: tqdm, msg: str | None = None, pos: int | None = None) -> bool:
        now = bar._time()
        if msg is not None:  # "" takes a bar away
            return False
        if bar.disable:  # it ends, and tqdm ends the line
            bar.fp.write(text(bar))
        elif bar.told is None:
            bar.told = now
        elif now - bar.told >= seconds:
            bar.told = now
            bar.fp.write(text(bar) + "\n")
            bar.fp.flush()
        return True

    tqdm.told = None  # when a bar last wrote a line
    tqdm.display = display
    tqdm.clear = lambda bar, nolock=False: None  # nothing to make room for
    tqdm.moveto = lambda bar, n: None  # each line is below the last
