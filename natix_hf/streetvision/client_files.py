"""What NATIX StreetVision asks of a published model: two files, two label strings, one form of call, nine seconds.

Written from the public description of the network as it stood until May 2026, when it was halted (`reward.HALTED`);
publishing with a hotkey is all that depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from natix_hf.errors import UserError
from natix_hf.files import write_json, write_text
from natix_hf.report.sections import Section

LABELS = ("None", "Roadwork")  # by class id; clients read output["Roadwork"]
LIMIT_SECONDS = 9.0  # for one photo, on a CPU
PINNED = "4.45.2"  # transformers in the network's own environment; its newest requirements for miners pin torch 2.2
# The smallest that were tested together to load a stock export; transformers 4.55.4 and 4.48.3 and torch 2.2 cannot.
SMALLEST = {"transformers": "4.56.0", "torch": "2.6.0", "timm": "1.0.22"}
# With transformers 5, which leaves the buffers of older ones (1.0.22 was tested) unset: logits are NaN.
TIMM_FOR_5 = "1.0.31"
FOLDERS = "base_miner/detectors/configs/ (since 2026-05 natix/miner/detectors/configs/)"
SETTINGS = "IMAGE_DETECTOR=ViT and IMAGE_DETECTOR_CONFIG=detector.yaml"
CLIENT = Path(__file__).with_name("client.py")
TOLERANCE = 1e-4  # of a probability

PREFIX = 42  # of SS58 addresses: Substrate's own, which Bittensor's wallets use
EXAMPLE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
# Other networks whose addresses people have, by prefix (github.com/paritytech/ss58-registry).
NETWORKS = {
    0: "a Polkadot",
    2: "a Kusama",
    5: "an Astar",
    10: "an Acala",
    12: "a Polymesh",
    30: "a Phala",
    36: "a Centrifuge",
    38: "a KILT",
    63: "a Hydration",
    69: "a SORA",
    137: "a Vara",
    255: "a Quartz",
    1221: "a peaq",
    1284: "a Moonbeam",
    1285: "a Moonriver",
    2032: "an Interlay",
    6094: "an Autonomys",
    7391: "a Unique",
    13116: "a Bittensor",  # registered, and not in use
}
_VERSION = re.compile(r"\b(transformers|torch|timm) (\d+(?:\.\d+){1,2})")
# What transformers says where it, torch, or torch beside numpy 2 is too old.
_TOO_OLD = ("does not recognize this architecture", "Unrecognized image processor", "torch.compiler")
_TOO_OLD += ("requires the PyTorch library but it was not found", "Numpy is not available")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Latency(NamedTuple):
    """Seconds from a client's request to its answer, for photos of one size: quantiles of `requests`."""

    width: int
    height: int
    at_once: int
    requests: int
    p50: float
    p99: float


class ClientCheck(NamedTuple):
    """What a client of the network measured at an export that answers like its run.

    Attributes:
        latency: of each size of photo and number of requests at a time, on `cores` CPU cores.
        versions: of what the client has installed.
        difference: the largest, of a probability.
    """

    latency: list[Latency]
    cores: int
    versions: dict[str, str]
    difference: float


def check_hotkey(hotkey: str) -> str:
    """The hotkey, if it is an SS58 address of a 32-byte key with prefix 42 and the right checksum.

    SS58 is base58 of a prefix of one byte or two, the key, and the first two bytes of blake2b-512 over `SS58PRE` and
    both (docs.polkadot.com, "SS58 address format").

    Raises:
        UserError: says what is wrong with it, and whose address it is where it is another network's.
    """
    number = 0
    for letter in hotkey:
        if letter not in _BASE58:
            raise UserError(f"--hotkey {hotkey}: {letter!r} does not occur in SS58 addresses: copy it again")
        number = number * 58 + _BASE58.index(letter)
    content = number.to_bytes((number.bit_length() + 7) // 8, "big")
    content = b"\0" * (len(hotkey) - len(hotkey.lstrip("1"))) + content
    first = content[0] if content else 0
    key = len(content) - (2 if first >= 64 else 1) - 2
    if first < 128 and key != 32:  # of the reserved first bytes nobody has said how long their addresses are
        raise UserError(
            f"--hotkey {hotkey}: {max(0, key)} bytes of key, 32 expected: an SS58 address such as {EXAMPLE} expected"
        )
    if hashlib.blake2b(b"SS58PRE" + content[:-2]).digest()[:2] != content[-2:]:
        raise UserError(f"--hotkey {hotkey}: wrong checksum, a letter differs from the address: copy it again")
    if first != PREFIX:
        raise UserError(
            f"--hotkey {hotkey}: {_owner(content)}; StreetVision's hotkeys have prefix {PREFIX}: give the hotkey as "
            f"its wallet shows it, such as {EXAMPLE}"
        )
    return hotkey


def _owner(content: bytes) -> str:
    """Whose address this is, by its prefix: `a Polkadot address (SS58 prefix 0)`."""
    prefix = content[0]
    if prefix >= 128:
        return f"nobody's address (first byte {prefix} is reserved)"
    if prefix >= 64:
        # 14 bits: the lower 8 are 6 of the first byte and 2 of the second, the upper 6 the rest of the second.
        prefix = (content[0] & 0x3F) << 2 | content[1] >> 6 | (content[1] & 0x3F) << 8
        if prefix < 64:
            return f"nobody's address (SS58 prefix {prefix} in two bytes, where one is right)"
    if prefix in (46, 47):
        return f"nobody's address (SS58 prefix {prefix} is reserved)"
    network = NETWORKS.get(prefix, "another network's")
    return f"{network} address (SS58 prefix {prefix})"


def check_asked(hotkey: str, form: str) -> None:
    """Raise `UserError` for a hotkey that is none, or a form of the model that clients cannot load."""
    check_hotkey(hotkey)
    if form not in ("auto", "stock"):
        raise UserError(
            f"--hotkey: StreetVision's clients load a stock model and nothing else, {form} was asked for: "
            "leave the format out"
        )


def check_version(version: str) -> str:
    """The version, if it is written X.Y.Z.

    Raises:
        UserError: it is not.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version):
        raise UserError(f"--model_version {version}: X.Y.Z expected, such as 1.0.0")
    return version


def check_labels(labels: Sequence[str]) -> None:
    """Raise `UserError` unless the classes are those that clients ask for, in their order."""
    if tuple(labels) != LABELS:
        raise UserError(
            f"--hotkey: StreetVision reads the class 'Roadwork' of a model with the classes {' and '.join(LABELS)}, "
            f"this one has {', '.join(labels)}: train with label_names: [{', '.join(LABELS)}]"
        )


def submission(
    name: str, description: str, *, hotkey: str, version: str, now: datetime | None = None
) -> dict[str, str | int]:
    """The content of `model_card.json`.

    Args:
        hotkey: the participant's SS58 address.
        version: X.Y.Z.
        now: time of submission, by default this moment; written as seconds since 1970.
    """
    return {
        "model_name": name,
        "description": description,
        "version": check_version(version),
        "submitted_by": check_hotkey(hotkey),
        "submission_time": int((now or datetime.now(UTC)).timestamp()),
    }


def detector(repository: str) -> str:
    """The text of `detector.yaml`, with which a client is pointed at the model; it says where it goes."""
    told = f"# Goes to {FOLDERS} of the network's code;\n# miner.env then says {SETTINGS}.\n"
    values = {"hf_repo": repository, "config_name": "config.json", "weights": "model.safetensors"}
    return told + yaml.safe_dump(values, sort_keys=False)


def check_client(
    model: str | Path,
    photos: Sequence[bytes],
    expected: Sequence[float],
    *,
    python: str | Path | None = None,
    seconds: float = 5.0,
    tolerance: float = TOLERANCE,
) -> ClientCheck:
    """Call the model in the network's form in a fresh process, and compare the probability of `Roadwork`.

    Args:
        model: an export's folder.
        expected: `(n,)` probability of Roadwork by the run.
        python: the client's interpreter; by default this one.
        seconds: of each measurement of latency.
        tolerance: largest difference of a probability that is allowed.

    Raises:
        UserError: the client fails, answers without `Roadwork`, or gives another probability.
    """
    answers, found = _call(model, photos, python=python, seconds=seconds)
    missing = [sorted(answer) for answer in answers if "Roadwork" not in answer]
    if missing:
        raise UserError(f"StreetVision: a client gets the labels {', '.join(missing[0])}, and reads 'Roadwork'")
    differences = [abs(answer["Roadwork"] - p) for answer, p in zip(answers, expected, strict=True)]
    worst = float(np.max(differences))
    if not worst <= tolerance:  # NaN is refused too
        versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())  # as `client.py` does
        raise UserError(
            f"StreetVision: called as the network does, photo {np.argmax(differences)} of the proof gets a "
            f"probability that differs by {worst:.2g} from the run's ({tolerance:g} allowed): nothing was pushed"
            f"{upgrade_hint(versions)}"
        )
    return found._replace(difference=worst)


def _call(
    model: Any, photos: Sequence[bytes], *, python: Any, seconds: float
) -> tuple[list[dict[str, float]], ClientCheck]:
    """A client's `{label: score}` of each photo, and what it measured; they are compared with the run's elsewhere."""
    with tempfile.TemporaryDirectory(prefix="natix_hf-streetvision-") as work:
        folder = Path(work, "photos")
        folder.mkdir()
        for number, content in enumerate(photos):
            (folder / f"{number:04d}").write_bytes(content)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_HOME": str(Path(work, "hub")), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        words = [str(python or sys.executable), str(CLIENT), str(model), str(folder), "--seconds", str(seconds)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=work)
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise UserError(
            f"StreetVision: the network's form of call fails: {last.strip().rstrip('.')}{upgrade_hint(last)}"
        )
    told = json.loads(done.stdout.splitlines()[-1])
    latency = [Latency(**row) for row in told["latency"]]
    return told["answers"], ClientCheck(latency, told["cores"], told["versions"], difference=float("nan"))


def upgrade_hint(message: str) -> str:
    """`; ` and what to upgrade to where a client's message shows that what it has installed cannot run the model."""
    found = {
        name: tuple(map(int, version.split("."))) for name, version in _VERSION.findall(message.partition(":")[0])
    }
    least = {name: tuple(map(int, version.split("."))) for name, version in SMALLEST.items()}
    if found.get("transformers", (4,))[0] >= 5:
        least["timm"] = tuple(map(int, TIMM_FOR_5.split(".")))
    old = any(found[name] < least[name] for name in found)
    return f"; {pinned_line()}" if old or any(sign in message for sign in _TOO_OLD) else ""


def pinned_line() -> str:
    """That the network's pinned environments cannot run the export, and what can."""
    tested = f"{SMALLEST['transformers']} with torch {SMALLEST['torch']} and timm {SMALLEST['timm']}"
    return (
        f"transformers {PINNED}, which the network pins, knows neither DINOv3 nor timm's wrapper, and torch 2.2, "
        "which its newest requirements for miners pin, can run no DINOv3; the smallest upgrade that was tested to "
        f"work is transformers {tested} (with transformers 5: timm {TIMM_FOR_5})"
    )


def submission_lines() -> list[str]:
    """Where the two files go, for people."""
    return [
        f"detector.yaml goes to {FOLDERS} of the network's code; set {SETTINGS} in miner.env",
        "model_card.json is there for whoever looks for it: since 2026-02 no code of the network reads it",
    ]


def submit(
    folder: Path,
    photos: Sequence[bytes],
    expected: Sequence[float],
    *,
    repo_id: str,
    hotkey: str,
    version: str,
    python: str | None,
    tolerance: float,
    say: Callable[[str], None],
) -> ClientCheck:
    """Check an export as the network's clients call it, and write the two files beside it.

    Args:
        folder: of the export; `model_card.json` and `detector.yaml` come into it.
        repo_id: `owner/name` under which it will stand.
        tolerance: of a probability, where weights are stored in less than fp32.

    Returns:
        what `check_client` found.
    """
    found = check_client(folder, photos, expected, python=python, tolerance=max(TOLERANCE, tolerance))
    for line in (*latency_lines(found), pinned_line(), *submission_lines()):
        say(line)
    description = "Tells street photos that show roadwork from those that do not (DINOv3, fine-tuned with natix_hf)"
    card = submission(repo_id.partition("/")[2], description, hotkey=hotkey, version=version)
    write_json(folder / "model_card.json", card)
    write_text(folder / "detector.yaml", detector(repo_id))
    return found


def latency_lines(found: ClientCheck) -> list[str]:
    """What `check_client` found, for people."""
    lines = [
        f"StreetVision: called as the network does, without natix_hf: 'Roadwork' has the run's probability (largest "
        f"difference {found.difference:.1e}); seconds on {found.cores} cores, limit {LIMIT_SECONDS:g}:"
    ]
    for row in found.latency:
        over = "  OVER THE LIMIT" if row.p99 > LIMIT_SECONDS else ""
        lines.append(
            f"  {row.width} x {row.height}, {row.at_once} at a time: p50 {row.p50:.3f}, p99 {row.p99:.3f} of "
            f"{row.requests} requests{over}"
        )
    return lines


def latency_section(found: ClientCheck) -> Section:
    """Times of a client's call, as `check_client` measured them, for a card."""
    rows = [
        [f"{row.width} x {row.height}", str(row.at_once), f"{row.p50:.3f}", f"{row.p99:.3f}", str(row.requests)]
        for row in found.latency
    ]
    return Section(
        "latency",
        "Latency",
        "Latency",
        f"Seconds for a photo, as a StreetVision client calls the model, measured on {found.cores} CPU cores; the "
        f"limit is {LIMIT_SECONDS:g} s. Quantiles of the requests that were timed, on one machine:",
        ["photo", "at a time", "p50", "p99", "requests"],
        rows,
    )
