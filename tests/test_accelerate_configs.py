"""The configurations for `accelerate launch` are such as accelerate reads, and say what their name says."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "accelerate"
EXPECTED = {
    "cpu": ("NO", True, 1),
    "gpu": ("NO", False, 1),
    "multi_gpu": ("MULTI_GPU", False, 2),
    "fsdp2": ("FSDP", False, 2),
}


def test_every_configuration_is_held_to_something():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_configuration(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    kind = getattr(config.distributed_type, "value", config.distributed_type)
    assert (kind, config.use_cpu, config.num_processes) == EXPECTED[name]
    # The recipe decides it; accelerate would overrule it silently.
    assert config.mixed_precision == "no"


def test_the_settings_of_fsdp2_are_those_that_training_takes_and_name_the_layer_of_a_dinov3():
    from transformers.models.dinov3_vit import modeling_dinov3_vit

    from natix_hf.training.training_arguments import FSDP_SETTINGS

    settings = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config
    for name, (unset, wanted, _) in FSDP_SETTINGS.items():
        assert str(settings.get(name.lower(), unset)).lower() == wanted.lower(), name
    assert issubclass(getattr(modeling_dinov3_vit, settings["fsdp_transformer_layer_cls_to_wrap"]), nn.Module)
    assert settings["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert settings["fsdp_reshard_after_forward"] is True
