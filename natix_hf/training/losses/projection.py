"""The projection head that a loss on features trains along, and that is dropped after training.

It is a module of the model while it trains, so that optimizer, clipping and DDP treat it like all others, but it is in
no state dict: nothing that saves a model can save it, and a checkpoint keeps it in a file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from natix_hf.errors import UserError
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3Output

PROJECTION = "projection.safetensors"


@dataclass
class ProjectedOutput(NatixDinov3Output):
    """A model's output with its features projected, `(batch, dimension)`."""

    projected: Tensor | None = None


class Projection(nn.Module):
    """The two-layer perceptron between features and `supcon` (Khosla et al., 2020), dropped after training.

    Args:
        feature_size: of the features, and of the hidden layer.
        seed: of the weights; the global random state is left as it was.
        dimension: of what the loss compares.
    """

    def __init__(self, feature_size: int, seed: int, dimension: int = 128) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden, out = nn.Linear(feature_size, feature_size), nn.Linear(feature_size, dimension)
        # Parameters and no submodules: these would write themselves into the state dict.
        self.hidden_weight, self.hidden_bias = hidden.weight, hidden.bias
        self.out_weight, self.out_bias = out.weight, out.bias

    def forward(self, features: Tensor) -> Tensor:
        """Features `(batch, feature_size)` to `(batch, dimension)`."""
        hidden = F.relu(F.linear(features, self.hidden_weight, self.hidden_bias))
        return F.linear(hidden, self.out_weight, self.out_bias)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: no saved model holds it."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, and nothing is missed."""

    def attach(self, model: nn.Module) -> None:
        """Become a part of the model, whose outputs have `projected` from now on where they have `features`."""
        model.projection = self
        # Within the model's forward: DDP looks for the parameters that a step uses in what forward returns.
        self.hook = model.register_forward_hook(_project)

    def detach(self, model: nn.Module) -> None:
        """Undo `attach`."""
        self.hook.remove()
        del model.projection

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint."""
        save_file({name: p.detach().contiguous() for name, p in self.named_parameters()}, folder / PROJECTION)

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Read the weights from a checkpoint."""
        weights = load_file(Path(folder) / PROJECTION)
        for name, parameter in self.named_parameters():
            parameter.copy_(weights[name])

    @staticmethod
    def check(folder: str | Path, *, wanted: bool) -> None:
        """Refuse a checkpoint that was written with `supcon` where there is none now, or the other way round."""
        if (Path(folder) / PROJECTION).exists() != wanted:
            was, now = ("without", "with") if wanted else ("with", "without")
            raise UserError(f"{folder} was written {was} supcon and this loss is {now} it: resume with the same loss")


def _project(model: nn.Module, args: tuple, output: Any) -> Any:
    if not isinstance(output, NatixDinov3Output) or output.features is None:
        return output
    return ProjectedOutput(**output, projected=model.projection(output.features))
