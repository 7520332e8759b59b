"""Faster linear layers on a CPU: weights are packed once into the memory layout of the processor.

torch multiplies fp32 matrices with MKL, which does not use the wide registers of some processors. oneDNN, which every
x86 build of torch also contains, uses them. It is faster still if a weight is packed once instead of for every
product: on such a machine a ViT-S runs at twice the speed. Whether packing is faster here is measured once per
process. Nothing changes if it is not, or if this build of torch lacks the two operators or the version counter of
weights (all three are private names). Packed products sum in another order, so results differ by rounding, as between
two machines.

A packed weight takes its memory a second time, and a third time if gradients pass through the layer. Only frozen
layers run packed while gradients are computed; trained layers use torch's own product.
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

SMALLEST = 128  # with fewer inputs or outputs the call costs as much as the product
WORTH = 1.2  # lowest speed-up over torch's own product at which packing is used
PROBED = (201, 768, 768)  # rows, inputs, outputs of the measured product; the rows are the tokens of one photo
ROUNDS = 48  # of the measurement; each times torch's own product and the packed one
ROOM = 0.25  # largest share of the free memory that packing may take


class Packing(NamedTuple):
    """Whether packed products are used here, and the reason as reported to the user."""

    taken: bool
    reason: str


@cache
def packing() -> Packing:
    """Measures, once per process, whether a packed product is clearly faster here than torch's own.

    The two are timed in turn, and the best time of each counts. So other work on the machine slows both equally, and a
    product is so short that some run without interruption. On two cores with a load of 8, the measured ratio was
    between 0.96 and 1.05; six products of 1,608 rows each, first all of one kind, then all of the other, gave 0.79 to
    1.19.
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
            # A separate generator: the measurement must not change what dropout draws during training.
            generator = torch.Generator().manual_seed(0)
            x, weight = (torch.randn(count, inputs, generator=generator) for count in (rows, outputs))
            packed = pack(weight)
            own_time = packed_time = float("inf")
            for _ in range(ROUNDS):
                own_time = min(own_time, _seconds(lambda: functional.linear(x, weight)))
                packed_time = min(packed_time, _seconds(lambda: times(x, packed)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return Packing(False, f"torch {torch.__version__} has no packed products for this processor")
    gain = own_time / packed_time
    measured = f"a packed product is {gain:.2f} times as fast here as torch's own"
    return Packing(True, measured) if gain > WORTH else Packing(False, f"{measured}; expected at least {WORTH}")


def worth_packing() -> bool:
    """Whether packed products are used here; see `packing`."""
    return packing().taken


def packing_line(model: torch.nn.Module, *, whole: bool = True, trained: bool = True) -> str | None:
    """A line about packing for the user; None if no layer of the model could be packed, as on a GPU.

    Args:
        model: on its device.
        whole: False for a model that is compiled or sharded (`torch_compile`, FSDP).
        trained: whether the model will be trained; the line then says how many layers stay packed in training.
    """
    layers = packable(model)
    if not layers:
        return None
    plain = "linear layers are not packed"
    if not whole:
        return f"{plain}: the model is compiled or sharded"
    if not worth_packing():
        return f"{plain}: {packing().reason}"
    needed, free = _memory_of(layers, model), _free_memory()
    if needed > ROOM * free:
        return f"{plain}: packing needs {needed / 1e9:.1f} GB, more than a quarter of the free {free / 1e9:.1f} GB"
    frozen = sum(not layer.weight.requires_grad for layer in layers)
    also = f", {frozen} of {len(layers)} also in training" if trained else ""
    return f"linear layers are packed{also}: {packing().reason}"


def _changes(weight: torch.Tensor) -> int | None:
    """How often a weight was changed in place; None for a weight created in inference mode, which has no counter."""
    return None if weight.is_inference() else weight._version


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    begin = time.perf_counter()
    product()
    return time.perf_counter() - begin


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A weight `(outputs, inputs)` in the layout that `times` takes."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


def times(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x` `(..., inputs)` times a packed weight plus the bias, `(..., outputs)`. Not differentiable."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """A product whose gradient is the product with the transposed weight, so it can be differentiated twice."""

    @staticmethod
    def forward(ctx, x, packed, turned, bias):
        ctx.packed, ctx.turned = packed, turned
        return times(x, packed, bias)

    @staticmethod
    def backward(ctx, gradient):
        return _Product.apply(gradient, ctx.turned, ctx.packed, None), None, None, None


class _PackedForward:
    """Replaces the `forward` of one linear layer; input that it does not support goes to torch's own product."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        self.linear = linear
        self.version: int | None = None
        self.packed = self.turned = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.linear.weight, self.linear.bias
        grad_enabled = torch.is_grad_enabled()
        trained = grad_enabled and (weight.requires_grad or (bias is not None and bias.requires_grad))
        fits = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu" and x.numel()
        if trained or not fits or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return functional.linear(x, weight, bias)
        version = _changes(weight)
        if self.packed is None or self.version != version:
            self.packed, self.turned, self.version = pack(weight), None, version
        if not (grad_enabled and x.requires_grad):
            return times(x, self.packed, bias)
        if self.turned is None:
            self.turned = pack(weight.t())
        return _Product.apply(x, self.packed, self.turned, bias)


def packable(model: torch.nn.Module, *, frozen: bool = False) -> list[torch.nn.Linear]:
    """The large fp32 linear layers on the CPU, including the base layers of LoRA adapters.

    Args:
        frozen: leave out trained layers.
    """
    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and "forward" not in vars(module)
        and type(module.weight) is torch.nn.Parameter  # a sharded weight has another type
        and min(module.weight.shape) >= SMALLEST
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and not (frozen and module.weight.requires_grad)
    ]


def _memory_of(layers: list[torch.nn.Linear], model: torch.nn.Module) -> int:
    """Bytes that packing takes; gradients that pass through need a second packed copy."""
    gradients = any(parameter.requires_grad for parameter in model.parameters())
    return sum(4 * layer.weight.numel() for layer in layers) * (2 if gradients else 1)


def _free_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


@contextmanager
def packed_linears(model: torch.nn.Module, *, frozen: bool = False) -> Iterator[int]:
    """Inside the `with` block the large linear layers of a model on a CPU run packed, if that is faster.

    The weights must not change until the block ends, so adapters are merged outside it. Blocks may be nested.

    Args:
        model: any module; layers on a GPU or in another precision are not packed.
        frozen: do not pack trained layers, because their weights change inside the block.

    Yields:
        The number of layers that this block packed.
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
