"""Several runs of `natix_hf.train` in the same processes, whose model is sharded (FSDP2) where the launcher says so.

Called with a JSON file: a list of `[words, stop]`: a command line, and where it is interrupted, which is a step,
"finish" (all steps are taken) or null.

accelerate shards on accelerators only: on CPUs it makes DDP of what it was asked for. The one place where it decides
so is replaced here; all that follows is what runs on GPUs.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def shard_on_cpus() -> None:
    """Have accelerate shard on CPUs too, where it is asked for it."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def sharded(self, *args, fsdp_plugin=None, **kwargs):
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)

    AcceleratorState.__init__ = sharded


@contextmanager
def interrupted(stop: int | str | None) -> Iterator[None]:
    """Have Ctrl-C come after a step, or before the finish; and see that what should be sharded is."""
    from accelerate.state import GradientState
    from torch.distributed.tensor import DTensor

    from natix_hf.runs import finish_run as ending
    from natix_hf.training.trainer import NatixTrainer

    step, finish = NatixTrainer.training_step, ending.finish_run

    def one_step(self, *args, **kwargs):
        if self.state.global_step == 0:  # before a forward pass
            pieces = [isinstance(p, DTensor) for p in self.model.parameters()]
            assert all(pieces) if self.args.sharded else not any(pieces)
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    def no_finish(*args, **kwargs):
        if stop == "finish":
            raise KeyboardInterrupt
        return finish(*args, **kwargs)

    NatixTrainer.training_step, ending.finish_run = one_step, no_finish
    try:
        yield
        assert stop is None
    except KeyboardInterrupt:
        assert stop is not None
        GradientState._reset_state()  # the next run is as good as one in a process of its own
    finally:
        NatixTrainer.training_step, ending.finish_run = step, finish


def main() -> None:
    import torch

    from natix_hf.recipe.yaml_and_command_line import parse
    from natix_hf.train import train

    torch.set_num_threads(1)
    shard_on_cpus()
    for words, stop in json.loads(Path(sys.argv[1]).read_text()):
        with interrupted(stop):
            train(parse(words))


if __name__ == "__main__":
    main()
