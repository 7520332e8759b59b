"""The recipe keys about publishing the finished run on the Hub."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from natix_hf.errors import UserError
from natix_hf.modeling.exports import FORMS
from natix_hf.options import option


@dataclass
class HubOptions:
    """How to publish the finished run, after its export is verified. Nothing is uploaded during training."""

    _argument_group_name: ClassVar[str] = "hub"

    push_to_hub: bool = option(
        False, "publish the finished run on the Hub once its export is verified, as natix-hf publish does"
    )
    hub_model_id: str | None = option(None, "owner/name of the model on the Hub, created if it does not exist")
    hub_format: Literal["auto", *FORMS] = option(
        "auto", "form of the export; auto: stock if it can hold the model, else merged"
    )
    hub_private_repo: bool = option(False, "create the repository as private")
    model_version: str = option("1.0.0", "version X.Y.Z, which is also the tag")
    hotkey: str | None = option(
        None,
        "SS58 address of a StreetVision participant; adds the files that the network requires (halted as of 2026-05)",
    )

    def __post_init__(self):
        if self.push_to_hub and not self.hub_model_id:
            raise UserError(
                "push_to_hub: no repository given: add hub_model_id: owner/name (--hub_model_id owner/name), or leave "
                "it out with --push_to_hub false"
            )
