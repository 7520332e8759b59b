"""A process that has imported what the verbs import, and forks one child for each command that it is sent.

`python -m natix_hf.VERB` spends most of its seconds on importing torch and transformers. A child of this process runs
the same module as `__main__` with the same words, environment and exit status, without these seconds. What libraries
read from the environment while they are imported is as it was when this process began.

Reads one JSON request a line: verb, words, environment, folder, out, err (files), and prelude: Python that the child
runs first. Answers with the exit status.
"""

import json
import os
import sys


def child(request: dict) -> None:
    """Become the command: never returns."""
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    module = f"natix_hf.{request['verb']}"
    sys.argv = [module, *request["words"]]
    status = 0
    try:
        import runpy

        exec(request["prelude"], {})
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
        number = os.fork()
        if number == 0:
            child(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)
    os._exit(0)  # taking torch apart takes seconds


if __name__ == "__main__":
    main()
