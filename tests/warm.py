"""A process that has imported what the verbs import, and forks a child for each command that it is sent.

`python -m natix_hf.VERB` spends most of its seconds on importing torch and transformers. A child of this process runs
the same module or script as `__main__` with the same words, environment and exit status, without these seconds. What
libraries read from the environment while they are imported is as it was when this process began: where the Hub is, and
`HF_HOME`.

`Warm` starts the process and talks to it. A request is one line of JSON: `start` (a module, or the path of a script),
`words`, `environment`, `folder`, `prelude` (Python that the child runs first), `out` and `err` (a file of each for
every process of a launch). The answer is the exit status.
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]


class Result(NamedTuple):
    status: int
    out: str
    err: str


def plain_environment(offline: bool = True) -> dict[str, str]:
    """The environment without what the Hub's client reads, so that no login or mirror of this machine is used."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    plain |= {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error::RuntimeWarning"}  # as pyproject.toml has it
    return {**plain, **({"HF_HUB_OFFLINE": "1"} if offline else {})}


class Warm:
    """The warm process; `environment` is what libraries read while they are imported: HF_HOME, maybe HF_ENDPOINT."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            # datasets reads its variable when it is imported, which here is before a verb could set it.
            env={
                **plain_environment("HF_ENDPOINT" not in environment),
                "DATASETS_VERBOSITY": "critical",
                **environment,
            },
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(
        self,
        start: str | Path,
        words: tuple[object, ...],
        environment: dict[str, str],
        folder: Path,
        prelude: str = "",
        processes: int = 1,
    ) -> Result:
        """Run a module or a script.

        Args:
            start: the module's name, or the path of a script.
            words: the command line.
            environment: all of it.
            folder: where output is kept in files.
            prelude: Python that runs first in the same process.
            processes: more than one are a launch, as `torch.distributed.run` makes it: each of them knows its rank.

        Returns:
            The exit status (of the first process that failed) and the output of all processes, in their order.
        """
        files = [[str(folder / f".std{kind}{rank or ''}") for rank in range(processes)] for kind in ("out", "err")]
        request = {
            "start": str(start),
            "words": list(map(str, words)),
            "environment": environment,
            "folder": str(REPOSITORY),
            "prelude": prelude,
            "out": files[0],
            "err": files[1],
        }
        print(json.dumps(request), file=self.process.stdin, flush=True)
        status = int(self.process.stdout.readline())
        return Result(status, *("".join(Path(one).read_text() for one in kind) for kind in files))

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()


def ranks(processes: int) -> list[dict[str, str]]:
    """What the launcher of several processes on this machine tells each of them in its environment."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def child(request: dict, rank: int, own: dict[str, str]) -> None:
    """Become the command: never returns."""
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(request[name][rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background ignores
    os.environ.clear()
    os.environ.update(request["environment"] | own)
    start = request["start"]
    sys.argv = [start, *request["words"]]
    status = 0
    try:
        import runpy

        exec(request["prelude"], {})
        if start.endswith(".py"):
            runpy.run_path(start, run_name="__main__")
        else:
            runpy.run_module(start, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    # As a child of multiprocessing ends: since Python 3.14 its semaphores are else reported as leaked.
    multiprocessing.util._exit_function()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(request: dict) -> int:
    """Fork, and wait; the other processes of a launch in which one failed are killed."""
    children = set()
    for rank, own in enumerate(ranks(len(request["out"]))):
        number = os.fork()
        if number == 0:
            child(request, rank, own)
        children.add(number)
    first = 0
    while children:
        number, status = os.wait()
        children.remove(number)
        if status and not first:
            first = os.waitstatus_to_exitcode(status)
            for other in children:
                os.kill(other, signal.SIGKILL)
    return first


def main() -> None:
    import natix_hf.data.splits.checking
    import natix_hf.hub.proof
    import natix_hf.inference.classify
    import natix_hf.recipe.yaml_and_command_line
    import natix_hf.runs.finish_run
    import natix_hf.runs.pipeline.carry_on
    import natix_hf.training.trainer  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
    os._exit(0)  # taking torch apart takes seconds


if __name__ == "__main__":
    main()
