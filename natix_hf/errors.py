"""Errors that a user can fix, and how a command reports them.

A `UserError` has one line: where, what was expected, what was found, and how to fix it. The verbs (`python -m
natix_hf.train`, ...) run under `command`, which prints that line and exits with status 2. A traceback appears only
with `--debug`. This file imports nothing heavy, so `--help` is quick.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from natix_hf.cpu_tricks import SWITCH, TRICKS, unknown_words
from natix_hf.startup import prepare


class UserError(ValueError):
    """An error that the user can fix; the message is one line that says how."""


class PhotoError(UserError):
    """A photo that cannot be read; the message names the file and the reason."""


class LeakageError(UserError):
    """A step asked for rows that its role may not see; the message names the step, the split and the rule."""


class Terminated(KeyboardInterrupt):
    """Another process asked the command to end: `kill`, a scheduler, a container that stops, a closed terminal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"terminated by {signal.Signals(number).name}")
        self.status = 128 + number


class CommandParser(argparse.ArgumentParser):
    """argparse with errors of one line, without the usage above it."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}; for usage: {self.prog} --help")


def one_line(error: BaseException) -> str:
    """The message of `error` as one line, or the name of its type if the message is empty.

    An error from a DataLoader worker contains the worker's traceback; only its last line is used.
    """
    text = str(error).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def few(names: Iterable[object], most: int = 3) -> str:
    """The first names and how many more there are, for a message: `a, b, c and 4 more`."""
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _disk_fault(error: Exception) -> str | None:
    """A sentence for errors of files and disks, else None."""
    if isinstance(error, OSError):
        name, number = error.filename, error.errno
    else:  # libraries written in Rust (safetensors) raise their own errors, with the number in the text
        match = re.search(r"\(os error (\d+)\)", str(error))
        name, number = None, match and int(match[1])
    if not number:
        return None
    if number in (errno.ENOSPC, errno.EDQUOT):
        while_writing = f" while writing {name}" if name else ""
        return f"no space left on the disk{while_writing}: free some room or choose another folder"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"not allowed to write or read {name or 'a file'}: check its permissions or choose another folder"
    return f"{name or one_line(error)}: {os.strerror(number).lower()} (--debug shows where this happened)"


def _bold_red(text: str, stream: TextIO) -> str:
    """`text` in colour if `stream` is a terminal and the user has not switched colours off (no-color.org)."""
    return f"\033[1;31m{text}\033[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise `Terminated`, so a command cleans up as it does after Ctrl-C.

    Signals that the caller ignores or handles (`nohup`) are left as they are.
    """
    here = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == here:
            raise Terminated(number)
        signal.signal(number, signal.SIG_DFL)  # a forked worker, which its parent ends
        os.kill(os.getpid(), number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    handled = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def command(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Run a verb; a `UserError` becomes one line on stderr and exit status 2, unless `--debug` is given.

    Args:
        main: the verb; gets the arguments without `--debug`.
        argv: the arguments, `sys.argv[1:]` by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare()
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not stop the command
        stream.reconfigure(errors="backslashreplace")
    atexit.register(gc.freeze)  # else the interpreter searches all objects for garbage before it exits
    # datasets logs its errors before it raises them; the one line below is enough.
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    try:
        if words := unknown_words():
            raise UserError(f"{SWITCH}: expected {', '.join(TRICKS)} or all, found {', '.join(words)}")
        with _ended_by_signals():
            main(arguments)
    except Exception as error:
        line = one_line(error) if isinstance(error, UserError) else _disk_fault(error)
        if debug or line is None:
            raise
        print(f"{_bold_red('error:', sys.stderr)} {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        if debug:
            raise
        ended = isinstance(stop, Terminated)
        print(stop if ended else "interrupted", file=sys.stderr)
        raise SystemExit(stop.status if ended else 128 + signal.SIGINT) from None
