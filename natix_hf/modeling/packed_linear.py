"""Linear layers on a CPU with their weights laid out once for the processor.

torch multiplies fp32 matrices by MKL, which leaves the wide registers of some processors unused. oneDNN, which every
build of torch for x86 carries too, uses them, and gains again when a weight is laid out ("packed") once and not at
every product: on such a machine a ViT-S runs at twice the speed. Whether that is so is measured, once a process; where
it is not, or where this build of torch lacks the two operators or the count of a weight's changes (all three names are
private), nothing changes. Sums are taken in another order, so results differ by rounding, as between two machines.

A packed weight takes as much memory again, twice that where gradients pass through. The layers must be frozen wherever
gradients are asked for: a trained one goes torch's own way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch.nn import functional

from natix_hf.cpu_tricks import SWITCH, wanted

SMALLEST = 128  # inputs or outputs under which the call costs as much as the product
WORTH = 1.2  # times as quick as torch's own
PROBED = (201, 768, 768)  # rows, inputs, outputs of the product by which that is measured: one photo's tokens
ROUNDS = 48  # in which it is, torch's own and packed in turn
ROOM = 0.25  # of the memory that is free


class Packing(NamedTuple):
    """Whether packed products are taken here, and what a run says of it."""

    taken: bool
    told: str


@cache
def packing() -> Packing:
    """Measures, once a process, whether a packed product is clearly quicker here than torch's own.

    The two are timed in turn and the best of each counts. Other work on the machine then slows both alike, and a
    product is short, so that some run without a break: on two cores with a load of 8 the ratio came out between 0.96
    and 1.05, where six products of 1,608 rows each, one kind after the other, gave 0.79 to 1.19.
    """
    if not wanted("packing"):
        return Packing(False, f"{SWITCH} leaves packing out")
    rows, inputs, outputs = PROBED
    try:
        _changes(torch.empty(0))
    except AttributeError:
        return Packing(False, f"torch {torch.__version__} does not count how often a weight is changed")
    try:
        with torch.inference_mode():
            # Chance of its own: measured before or within training, it must not change what dropout draws there.
            chance = torch.Generator().manual_seed(0)
            x, weight = (torch.randn(count, inputs, generator=chance) for count in (rows, outputs))
            packed = pack(weight)
            own_time = packed_time = float("inf")
            for _ in range(ROUNDS):
                own_time = min(own_time, _seconds(lambda: functional.linear(x, weight)))
                packed_time = min(packed_time, _seconds(lambda: times(x, packed)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return Packing(False, f"torch {torch.__version__} has no packed products for this processor")
    gain = own_time / packed_time
    told = f"a packed product is {gain:.2f} times as quick here as torch's own"
    return Packing(True, told) if gain > WORTH else Packing(False, f"{told}, and {WORTH} is expected")


def worth_packing() -> bool:
    """Whether packed products are taken here; see `packing`."""
    return packing().taken


def packing_line(model: torch.nn.Module, *, whole: bool = True, trained: bool = True) -> str | None:
    """What a command says of packing; None where no layer of the model could be packed, as on a GPU.

    Args:
        model: on its device.
        whole: False for a model that `torch_compile` or FSDP takes apart.
        trained: whether it is, and so which layers stay packed meanwhile is worth a word.
    """
    layers = packable(model)
    if not layers:
        return None
    plain = "linear layers run as torch has them"
    if not whole:
        return f"{plain}: the model is compiled or sharded"
    if not worth_packing():
        return f"{plain}: {packing().told}"
    needed, free = _memory_of(layers, model), _free_memory()
    if needed > ROOM * free:
        return f"{plain}: packing takes {needed / 1e9:.1f} GB, and a quarter of {free / 1e9:.1f} GB may go to it"
    frozen = sum(not layer.weight.requires_grad for layer in layers)
    also = f", {frozen} of {len(layers)} also in training" if trained else ""
    return f"linear layers run packed{also}: {packing().told}"


def _changes(weight: torch.Tensor) -> int | None:
    """How often a weight was changed in place; None for one that was made in inference mode, which has no count."""
    return None if weight.is_inference() else weight._version


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    begin = time.perf_counter()
    product()
    return time.perf_counter() - begin


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A weight `(outputs, inputs)` in the layout that `times` reads."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


def times(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x` `(..., inputs)` times a packed weight, and the bias: `(..., outputs)`. No gradient passes through."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """A product whose gradient is the product with the weight turned over, so that it may be derived twice."""

    @staticmethod
    def forward(ctx, x, packed, turned, bias):
        ctx.packed, ctx.turned = packed, turned
        return times(x, packed, bias)

    @staticmethod
    def backward(ctx, gradient):
        return _Product.apply(gradient, ctx.turned, ctx.packed, None), None, None, None


class _PackedForward:
    """Stands in for the `forward` of one linear layer; whatever it is not made for goes torch's own way."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        self.linear = linear
        self.version: int | None = None
        self.packed = self.turned = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.linear.weight, self.linear.bias
        follow = torch.is_grad_enabled()
        trained = follow and (weight.requires_grad or (bias is not None and bias.requires_grad))
        fits = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu" and x.numel()
        if trained or not fits or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return functional.linear(x, weight, bias)
        version = _changes(weight)
        if self.packed is None or self.version != version:
            self.packed, self.turned, self.version = pack(weight), None, version
        if not (follow and x.requires_grad):
            return times(x, self.packed, bias)
        if self.turned is None:
            self.turned = pack(weight.t())
        return _Product.apply(x, self.packed, self.turned, bias)


def packable(model: torch.nn.Module, *, frozen: bool = False) -> list[torch.nn.Linear]:
    """The large fp32 linear layers on the CPU, also those under LoRA adapters; `frozen`: not the trained ones."""
    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and "forward" not in vars(module)
        and type(module.weight) is torch.nn.Parameter  # a sharded one is another type
        and min(module.weight.shape) >= SMALLEST
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and not (frozen and module.weight.requires_grad)
    ]


def _memory_of(layers: list[torch.nn.Linear], model: torch.nn.Module) -> int:
    """Bytes that packing takes; a second copy is for gradients that pass through."""
    passing = any(parameter.requires_grad for parameter in model.parameters())
    return sum(4 * layer.weight.numel() for layer in layers) * (2 if passing else 1)


def _free_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


@contextmanager
def packed_linears(model: torch.nn.Module, *, frozen: bool = False) -> Iterator[int]:
    """Inside the block the large linear layers of a model on a CPU run packed, where that is quicker.

    The weights have to stay as they are until the block ends: adapters are merged outside. Blocks may nest.

    Args:
        model: any module; what is on a GPU or in another precision is left alone.
        frozen: leave trained layers alone, whose weights change while the block lasts.

    Yields:
        the number of layers that this block packed.
    """
    layers = packable(model, frozen=frozen)
    if layers and (not worth_packing() or _memory_of(layers, model) > ROOM * _free_memory()):
        layers = []
    for layer in layers:
        layer.forward = _PackedForward(layer)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward
