"""The configurations for `accelerate launch` are such as accelerate reads, and say what their name says."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "accelerate"
EXPECTED = {"cpu": ("NO", True, 1), "gpu": ("NO", False, 1), "multi_gpu": ("MULTI_GPU", False, 2)}


def test_every_configuration_is_held_to_something():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_configuration(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    kind = getattr(config.distributed_type, "value", config.distributed_type)
    assert (kind, config.use_cpu, config.num_processes) == EXPECTED[name]
    # The recipe decides it; accelerate would overrule it silently.
    assert config.mixed_precision == "no"
