"""Checks and writes what NATIX StreetVision requires of a published model.

The network requires two files, two fixed label names, a model that its clients can load, and at most nine seconds per
photo. This module follows the public description of the network until May 2026, when the network was halted
(`reward.HALTED`). It is used only for publishing with a hotkey.
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

LABELS = ("None", "Roadwork")  # in the order of class ids; clients read output["Roadwork"]
LIMIT_SECONDS = 9.0  # per photo, on a CPU
PINNED = "4.45.2"  # transformers in the network's environment; its newest requirements for miners pin torch 2.2
# Smallest versions that load a stock export (tested together). transformers 4.55.4 and 4.48.3 and torch 2.2 cannot.
SMALLEST = {"transformers": "4.56.0", "torch": "2.6.0", "timm": "1.0.22"}
# Smallest timm for transformers 5, which leaves the buffers of older timm (tested: 1.0.22) unset: logits are NaN.
TIMM_FOR_5 = "1.0.31"
FOLDERS = "base_miner/detectors/configs/ (since 2026-05 natix/miner/detectors/configs/)"
SETTINGS = "IMAGE_DETECTOR=ViT and IMAGE_DETECTOR_CONFIG=detector.yaml"
CLIENT = Path(__file__).with_name("client.py")
TOLERANCE = 1e-4  # largest allowed difference of a probability

PREFIX = 42  # SS58 prefix of Substrate, which Bittensor's wallets use
EXAMPLE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
# SS58 prefix -> another common network (github.com/paritytech/ss58-registry).
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
    13116: "a Bittensor",  # registered but not in use
}
_VERSION = re.compile(r"\b(transformers|torch|timm) (\d+(?:\.\d+){1,2})")
# Messages of transformers if transformers or torch is too old, or torch is too old for numpy 2.
_TOO_OLD = ("does not recognize this architecture", "Unrecognized image processor", "torch.compiler")
_TOO_OLD += ("requires the PyTorch library but it was not found", "Numpy is not available")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Latency(NamedTuple):
    """Latency quantiles in seconds over `requests` requests with photos of one size, `at_once` at a time."""

    width: int
    height: int
    at_once: int
    requests: int
    p50: float
    p99: float


class ClientCheck(NamedTuple):
    """What a client of the network measured with an export.

    Attributes:
        latency: one entry for each photo size and number of requests at a time.
        cores: number of CPU cores.
        versions: versions of the client's packages.
        difference: largest difference of a probability from the run's.
    """

    latency: list[Latency]
    cores: int
    versions: dict[str, str]
    difference: float


def check_hotkey(hotkey: str) -> str:
    """The hotkey, if it is a valid SS58 address of a 32-byte key with prefix 42.

    SS58 is the base58 encoding of a prefix (one or two bytes), the key, and the first two bytes of blake2b-512 over
    `SS58PRE`, prefix and key (docs.polkadot.com, "SS58 address format").

    Raises:
        UserError: the address is invalid or belongs to another network; the message says which.
    """
    number = 0
    for letter in hotkey:
        if letter not in _BASE58:
            raise UserError(f"--hotkey {hotkey}: {letter!r} is not a letter of SS58 addresses: copy the address again")
        number = number * 58 + _BASE58.index(letter)
    content = number.to_bytes((number.bit_length() + 7) // 8, "big")
    content = b"\0" * (len(hotkey) - len(hotkey.lstrip("1"))) + content
    first = content[0] if content else 0
    key = len(content) - (2 if first >= 64 else 1) - 2
    if first < 128 and key != 32:  # the length of addresses with a reserved first byte is not specified
        raise UserError(
            f"--hotkey {hotkey}: expected 32 bytes of key, found {max(0, key)}: give an SS58 address such as {EXAMPLE}"
        )
    if hashlib.blake2b(b"SS58PRE" + content[:-2]).digest()[:2] != content[-2:]:
        raise UserError(f"--hotkey {hotkey}: wrong checksum, so at least one letter is wrong: copy the address again")
    if first != PREFIX:
        raise UserError(
            f"--hotkey {hotkey}: {_owner(content)}; StreetVision's hotkeys have prefix {PREFIX}: give the hotkey as "
            f"its wallet shows it, such as {EXAMPLE}"
        )
    return hotkey


def _owner(content: bytes) -> str:
    """The owner of an address, from its prefix: `a Polkadot address (SS58 prefix 0)`."""
    prefix = content[0]
    if prefix >= 128:
        return f"an invalid address (first byte {prefix} is reserved)"
    if prefix >= 64:
        # 14 bits: the lower 8 are 6 bits of the first byte and 2 of the second, the upper 6 the rest of the second.
        prefix = (content[0] & 0x3F) << 2 | content[1] >> 6 | (content[1] & 0x3F) << 8
        if prefix < 64:
            return f"an invalid address (SS58 prefix {prefix} in two bytes instead of one)"
    if prefix in (46, 47):
        return f"an invalid address (SS58 prefix {prefix} is reserved)"
    network = NETWORKS.get(prefix, "another network's")
    return f"{network} address (SS58 prefix {prefix})"


def check_asked(hotkey: str, form: str) -> None:
    """Raise `UserError` if the hotkey is invalid or clients cannot load the form."""
    check_hotkey(hotkey)
    if form not in ("auto", "stock"):
        raise UserError(
            f"--hotkey: StreetVision's clients load only a stock model, found the format {form}: leave the format out"
        )


def check_version(version: str) -> str:
    """The version, if it has the form X.Y.Z.

    Raises:
        UserError: it has another form.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version):
        raise UserError(f"--model_version {version}: expected X.Y.Z, such as 1.0.0")
    return version


def check_labels(labels: Sequence[str]) -> None:
    """Raise `UserError` unless the classes are those that clients read, in that order."""
    if tuple(labels) != LABELS:
        raise UserError(
            f"--hotkey: StreetVision reads the class 'Roadwork' of a model with the classes {' and '.join(LABELS)}, "
            f"but this model has {', '.join(labels)}: train with label_names: [{', '.join(LABELS)}]"
        )


def submission(
    name: str, description: str, *, hotkey: str, version: str, now: datetime | None = None
) -> dict[str, str | int]:
    """The content of `model_card.json`.

    Args:
        name: name of the model.
        description: one sentence.
        hotkey: the participant's SS58 address.
        version: X.Y.Z.
        now: time of submission, by default the current time; written as seconds since 1970.
    """
    return {
        "model_name": name,
        "description": description,
        "version": check_version(version),
        "submitted_by": check_hotkey(hotkey),
        "submission_time": int((now or datetime.now(UTC)).timestamp()),
    }


def detector(repository: str) -> str:
    """The text of `detector.yaml`, which points a client to the model. Its comment says where to put the file."""
    comment = f"# Put this file into {FOLDERS} of the network's code\n# and set {SETTINGS} in miner.env.\n"
    values = {"hf_repo": repository, "config_name": "config.json", "weights": "model.safetensors"}
    return comment + yaml.safe_dump(values, sort_keys=False)


def check_client(
    model: str | Path,
    photos: Sequence[bytes],
    expected: Sequence[float],
    *,
    python: str | Path | None = None,
    seconds: float = 5.0,
    tolerance: float = TOLERANCE,
) -> ClientCheck:
    """Load the model like the network's clients, in a fresh process, and compare the probabilities of `Roadwork`.

    Args:
        model: folder of an export.
        photos: `n` files as bytes.
        expected: `(n,)` probability of Roadwork from the run.
        python: the client's interpreter; by default this one.
        seconds: duration of each latency measurement.
        tolerance: largest allowed difference of a probability.

    Raises:
        UserError: the client fails, its output has no `Roadwork`, or a probability differs.
    """
    answers, client_check = _call(model, photos, python=python, seconds=seconds)
    missing = [sorted(answer) for answer in answers if "Roadwork" not in answer]
    if missing:
        raise UserError(f"StreetVision: a client gets the labels {', '.join(missing[0])}, but reads 'Roadwork'")
    differences = [abs(answer["Roadwork"] - p) for answer, p in zip(answers, expected, strict=True)]
    largest = float(np.max(differences))
    if not largest <= tolerance:  # NaN is refused too
        versions = ", ".join(f"{name} {version}" for name, version in client_check.versions.items())
        raise UserError(
            f"StreetVision: in the network's client, photo {np.argmax(differences)} of the proof gets a probability "
            f"that differs by {largest:.2g} from the run's ({tolerance:g} allowed): nothing was pushed"
            f"{upgrade_hint(versions)}"
        )
    return client_check._replace(difference=largest)


def _call(
    model: Any, photos: Sequence[bytes], *, python: Any, seconds: float
) -> tuple[list[dict[str, float]], ClientCheck]:
    """A client's `{label: score}` for each photo, and its measurements. The caller compares them with the run's."""
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
        raise UserError(f"StreetVision: the network's client fails: {last.strip().rstrip('.')}{upgrade_hint(last)}")
    report = json.loads(done.stdout.splitlines()[-1])
    latency = [Latency(**row) for row in report["latency"]]
    return report["answers"], ClientCheck(latency, report["cores"], report["versions"], difference=float("nan"))


def upgrade_hint(message: str) -> str:
    """`; ` and an upgrade that works, if a client's message shows too old packages; else an empty text."""
    installed = {name: _numbers(version) for name, version in _VERSION.findall(message.partition(":")[0])}
    least = {name: _numbers(version) for name, version in SMALLEST.items()}
    if installed.get("transformers", (4,))[0] >= 5:
        least["timm"] = _numbers(TIMM_FOR_5)
    old = any(installed[name] < least[name] for name in installed)
    return f"; {pinned_line()}" if old or any(sign in message for sign in _TOO_OLD) else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def pinned_line() -> str:
    """Says that the network's pinned environments cannot run the export, and which versions can."""
    tested = f"{SMALLEST['transformers']} with torch {SMALLEST['torch']} and timm {SMALLEST['timm']}"
    return (
        f"the network pins transformers {PINNED}, which supports neither DINOv3 nor timm's wrapper; its newest "
        "requirements for miners pin torch 2.2, which cannot run DINOv3; the smallest upgrade that was tested to "
        f"work is transformers {tested} (with transformers 5: timm {TIMM_FOR_5})"
    )


def submission_lines() -> list[str]:
    """Lines that say where the two files go."""
    return [
        f"detector.yaml goes to {FOLDERS} of the network's code; set {SETTINGS} in miner.env",
        "model_card.json is written for completeness: since 2026-02 no code of the network reads it",
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
    """Check an export in the network's client and add the network's two files to it.

    Args:
        folder: folder of the export, to which `model_card.json` and `detector.yaml` are added.
        photos, expected, python: see `check_client`.
        repo_id: `owner/name` of the model on the Hub.
        hotkey, version: see `submission`.
        tolerance: largest allowed difference of a probability; at least `TOLERANCE` applies.
        say: called with each line for the user.

    Returns:
        The result of `check_client`.

    Raises:
        UserError: see `check_client`.
    """
    client_check = check_client(folder, photos, expected, python=python, tolerance=max(TOLERANCE, tolerance))
    for line in (*latency_lines(client_check), pinned_line(), *submission_lines()):
        say(line)
    description = "Classifies street photos with and without roadwork (DINOv3, fine-tuned with natix_hf)"
    card = submission(repo_id.partition("/")[2], description, hotkey=hotkey, version=version)
    write_json(folder / "model_card.json", card)
    write_text(folder / "detector.yaml", detector(repo_id))
    return client_check


def latency_lines(client_check: ClientCheck) -> list[str]:
    """The result of `check_client` as lines for the user."""
    lines = [
        "StreetVision: in the network's client, without natix_hf, the probability of 'Roadwork' is that of the run "
        f"(largest difference {client_check.difference:.1e}); latency in seconds on {client_check.cores} cores, limit "
        f"{LIMIT_SECONDS:g}:"
    ]
    for row in client_check.latency:
        over = "  OVER THE LIMIT" if row.p99 > LIMIT_SECONDS else ""
        lines.append(
            f"  {row.width} x {row.height}, {row.at_once} at a time: p50 {row.p50:.3f}, p99 {row.p99:.3f} of "
            f"{row.requests} requests{over}"
        )
    return lines


def latency_section(client_check: ClientCheck) -> Section:
    """The card section with the latencies that `check_client` measured."""
    rows = [
        [f"{row.width} x {row.height}", str(row.at_once), f"{row.p50:.3f}", f"{row.p99:.3f}", str(row.requests)]
        for row in client_check.latency
    ]
    return Section(
        "latency",
        "Latency",
        "Latency",
        f"Seconds per photo in a StreetVision client, measured on one machine with {client_check.cores} CPU cores. "
        f"The limit is {LIMIT_SECONDS:g} s. The table shows quantiles over the timed requests.",
        ["photo", "at a time", "p50", "p99", "requests"],
        rows,
    )
