"""Groups parameters by learning rate and weight decay, which follow from their names.

Learning rates may differ by layer (`layerwise_lr_decay`, Bao et al., 2022) and between the two matrices of an adapter
(`loraplus_lr_ratio`, Hayou et al., 2024).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import nn

BLOCK = r"\bbackbone\.model\.layer\.(\d+)\."


class ParameterGroup(TypedDict):
    """Parameters with the same settings; `matrix`: two-dimensional and not in the last layer."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float
    matrix: NotRequired[bool]


def lr_factor(
    name: str, blocks: int, layerwise_lr_decay: float = 1.0, loraplus_lr_ratio: float | None = None
) -> float:
    """The learning rate of a parameter as a share of `learning_rate`.

    Args:
        name: of the parameter, in a plain or a LoRA-wrapped model.
        blocks: number of blocks of the backbone. The head and the norm before it have 1, the last block `d`, the first
            one `d ** blocks` and the embeddings `d ** (blocks + 1)`.
        layerwise_lr_decay: `d`.
        loraplus_lr_ratio: factor for the B matrices of adapters.
    """
    below = 0
    if block := re.search(BLOCK, name):
        below = blocks - int(block[1])
    elif re.search(r"\bbackbone\.embeddings\.", name):
        below = blocks + 1
    is_b = ".lora_B." in name or name.endswith(".second_b")  # the latter in DoRAN
    return layerwise_lr_decay**below * (loraplus_lr_ratio or 1.0 if is_b else 1.0)


def parameter_groups(
    model: nn.Module, args: Any, decayed: Collection[str], *, matrices_apart: bool = False
) -> list[ParameterGroup]:
    """The trainable parameters, grouped by learning rate and weight decay; the full learning rate comes first.

    Args:
        decayed: names of the parameters with weight decay.
        matrices_apart: also split by `matrix`, which is not set otherwise.

    Returns:
        Groups, none of them empty.
    """
    names = [name for name, _ in model.named_parameters()]
    blocks = 1 + max((int(n) for n in re.findall(BLOCK, " ".join(names))), default=-1)
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = lr_factor(name, blocks, args.layerwise_lr_decay, args.loraplus_lr_ratio)
            matrix = matrices_apart and parameter.ndim == 2 and not re.search(r"\bhead\.(.*\.)?linear\.", name)
            groups.setdefault((factor != 1, -factor, not matrix, name not in decayed), []).append(parameter)
    made: list[ParameterGroup] = []
    for (_, factor, vector, free), parameters in sorted(groups.items(), key=lambda item: item[0]):
        decay = 0.0 if free else args.weight_decay
        made.append({"params": parameters, "lr": -factor * args.learning_rate, "weight_decay": decay})
        if matrices_apart:
            made[-1]["matrix"] = not vector
    return made
