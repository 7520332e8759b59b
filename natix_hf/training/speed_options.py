"""The recipe's keys about what is kept so that nothing is computed twice."""

from dataclasses import dataclass
from typing import ClassVar

from natix_hf.options import option


@dataclass
class SpeedOptions:
    """What is kept so that nothing is computed twice."""

    _argument_group_name: ClassVar[str] = "speed"

    cache_dir: str | None = option(
        None, "folder of frozen features and pre-resized copies; default ~/.cache/natix_hf (NATIX_HF_HOME)"
    )
    cache_gb: float | None = option(
        None, "the most that cached features may take; those not asked for longest make room; default: no limit"
    )
    fixed_views: int = option(
        0,
        "so many augmented views of each photo, in turn from epoch to epoch; 0: new ones in every epoch. A probe sees "
        "them beside the photo itself, each computed once",
    )
    prefix_cache_gb: float | None = option(
        None,
        "where only the last blocks are trained (lora_last_blocks): keep what stands below them on disk, at most so "
        "many gigabytes, and run only these blocks; decides fixed views and precision, and says so",
    )
    decode_copy: bool = option(
        False,
        "write the training photos once at reduced size and train on that; quicker, and views differ a little "
        "(another JPEG coding, and random crops of the same kind but elsewhere); no effect on method probe",
    )
    decode_copy_side: int | None = option(
        None,
        "short side of the copies in pixels; default 1.75 times image_size (with tiles: times the short side of the "
        "photo that fills them all), rounded up to a multiple of 16",
    )
