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
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

from natix_hf.cpu_tricks import SWITCH, TRICKS, unknown_words
from natix_hf.startup import WORKER_MODULES, prepare

PATIENCE = 3.0  # seconds after which a further signal ends a command that is cleaning up


class UserError(ValueError):
    """An error that the user can fix; the message is one line that says how."""


class PhotoError(UserError):
    """A photo that cannot be read; the message names the file and the reason."""


class LeakageError(UserError):
    """A step asked for rows that its role may not see; the message names the step, the split and the rule."""


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


_usual_handlers: dict[int, Any] = {}  # of the signals that a command handles, by number


def _handle_as_usual() -> None:
    for number, handler in _usual_handlers.items():
        signal.signal(number, handler)


def _ended_line(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"terminated by {signal.Signals(number).name}"


def _end_with_pool(number: int) -> None:
    """End at once if processes of datasets read photos, for nothing is written then.

    Its pool may wait for ever for a worker that the signal has ended, too, while that held a lock.
    """
    multiprocess = sys.modules.get("multiprocess")
    if workers := multiprocess.active_children() if multiprocess else []:
        for worker in workers:
            worker.kill()
        for util in filter(None, map(sys.modules.get, WORKER_MODULES)):
            shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
        print(_ended_line(number), file=sys.stderr, flush=True)
        os._exit(128 + number)


@contextmanager
def _noted_signals(noted: list[int]) -> Iterator[None]:
    """Inside the block SIGINT, SIGTERM and SIGHUP raise `KeyboardInterrupt`, so a command cleans up before it ends.

    Launchers and terminals send signals to each process of a group, often twice, so a second signal has no effect
    for `PATIENCE` seconds. Later it ends the command at once. Signals that the caller ignores (`nohup`) stay ignored.

    Args:
        noted: receives the number of the signal, since a library may turn the exception into another one.
    """
    here, usual, since = os.getpid(), (signal.SIG_DFL, signal.default_int_handler), 0.0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if os.getpid() != here:  # a worker that has just been forked
            _handle_as_usual()
            signal.raise_signal(number)
            return
        if noted:
            if time.monotonic() - since > PATIENCE:
                os._exit(128 + number)
            return
        noted.append(number)
        since = time.monotonic()
        _end_with_pool(number)
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report that the workers were ended, too
        raise KeyboardInterrupt

    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    _usual_handlers.update({n: handler for n in numbers if (handler := signal.getsignal(n)) in usual})
    for number in _usual_handlers:
        signal.signal(number, end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_handle_as_usual)
    try:
        yield
    finally:
        if not noted:
            _handle_as_usual()
            _usual_handlers.clear()


def command(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Run a verb; a `UserError` becomes one line on stderr and exit status 2, unless `--debug` is given.

    Args:
        main: the verb; gets the arguments without `--debug`.
        argv: the arguments, `sys.argv[1:]` by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller has closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    prepare()
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not stop the command
        stream.reconfigure(errors="backslashreplace")
    atexit.register(gc.freeze)  # else the interpreter searches all objects for garbage before it exits
    # datasets logs its errors before it raises them; the one line below is enough.
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    noted: list[int] = []
    try:
        if words := unknown_words():
            raise UserError(f"{SWITCH}: expected {', '.join(TRICKS)} or all, found {', '.join(words)}")
        with _noted_signals(noted):
            main(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        if noted or isinstance(error, KeyboardInterrupt):
            number = noted[0] if noted else signal.SIGINT
            print(_ended_line(number), file=sys.stderr)
            raise SystemExit(128 + number) from None
        line = one_line(error) if isinstance(error, UserError) else _disk_fault(error)
        if line is None:
            raise
        print(f"{_bold_red('error:', sys.stderr)} {line}", file=sys.stderr)
        raise SystemExit(2) from None
