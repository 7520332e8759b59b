"""The options of caches and copies that make training faster."""

from dataclasses import dataclass
from typing import ClassVar

from natix_hf.options import option


@dataclass
class SpeedOptions:
    """Caches and copies that make training faster."""

    _argument_group_name: ClassVar[str] = "speed"

    cache_dir: str | None = option(
        None, "folder for frozen features and pre-resized copies; default: ~/.cache/natix_hf (NATIX_HF_HOME)"
    )
    cache_gb: float | None = option(
        None, "size limit of cached features in gigabytes; the least recently used are removed; default: no limit"
    )
    fixed_views: int = option(
        0,
        "number of augmented views of each photo, used in turn; 0: new views in each epoch. A probe computes each "
        "once and trains on them and on the photo itself",
    )
    prefix_cache_gb: float | None = option(
        None,
        "if only the last blocks are trained (lora_last_blocks): keep the output of the blocks below on disk, up to "
        "this many gigabytes, and run the last blocks only; sets fixed views and precision, and reports them",
    )
    decode_copy: bool = option(
        False,
        "write the training photos once at reduced size and train on these copies; faster, and views differ a little "
        "(JPEG is encoded again, random crops fall elsewhere); no effect with method probe",
    )
    decode_copy_side: int | None = option(
        None,
        "short side of the copies in pixels; default: 1.75 times image_size (with tiles: times the short side of the "
        "photo that fills them all), rounded up to a multiple of 16",
    )
