"""The projection head of a loss on features, which is trained with the model and dropped afterwards.

In training it is a module of the model, so optimizer, clipping and DDP treat it like any other. It is not part of the
state dict, so saved models never contain it; checkpoints store it in a separate file.
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
DIMENSION = 128  # of the projected features


@dataclass
class ProjectedOutput(NatixDinov3Output):
    """The output of a model, with projected features `(batch, dimension)`."""

    projected: Tensor | None = None


class Projection(nn.Module):
    """The two-layer perceptron between features and `supcon` (Khosla et al., 2020), dropped after training.

    Args:
        feature_size: size of the features, and of the hidden layer.
        seed: of the weights; the global random state does not change.
    """

    def __init__(self, feature_size: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden, out = nn.Linear(feature_size, feature_size), nn.Linear(feature_size, DIMENSION)
        # Parameters, not submodules, which would add themselves to the state dict.
        self.hidden_weight, self.hidden_bias = hidden.weight, hidden.bias
        self.out_weight, self.out_bias = out.weight, out.bias

    def forward(self, features: Tensor) -> Tensor:
        """Project features `(batch, feature_size)` to `(batch, dimension)`."""
        hidden = F.relu(F.linear(features, self.hidden_weight, self.hidden_bias))
        return F.linear(hidden, self.out_weight, self.out_bias)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Save nothing."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load nothing, and report nothing as missing."""

    def attach(self, model: nn.Module) -> None:
        """Become a module of the model; outputs with `features` then have `projected` too."""
        model.projection = self
        # A forward hook, because DDP finds the parameters that a step uses through the output of forward.
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
        """Raise `UserError` if the checkpoint was written with `supcon` and this run has none, or vice versa."""
        if (Path(folder) / PROJECTION).exists() != wanted:
            was, now = ("without", "with") if wanted else ("with", "without")
            raise UserError(f"{folder} was written {was} supcon, but this run is {now} it: resume with the same loss")


def _project(model: nn.Module, args: tuple, output: Any) -> Any:
    if not isinstance(output, NatixDinov3Output) or output.features is None:
        return output
    return ProjectedOutput(**output, projected=model.projection(output.features))
