"""The round-trip proof: the run, its export and clients in fresh processes answer the same photos alike.

    about = export_run(run, "stock", folder)             # hub/export_forms.py; export.json is written there
    document = prove(run, folder)                        # proof.json is written there
    document = prove(run, "owner/name", online=True)     # what was pushed, fetched anew; write the document yourself

`prove` either returns the content of `proof.json` or raises a `UserError` that names the client and
what differs; nothing is written then. Clients are `client.py` run by its path with an empty Hugging Face cache, no
network unless `online`: with natix_hf imported, without it, and in `client_python` where one is given. The photos are
the run's own of `val_select`, or generated scenes (`proof_photos.py`), never those of `val_test`.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from natix_hf.documents.export import AskedClient, Export, Proof, ProofPhotos, ProvenClient, SameDecisions
from natix_hf.errors import UserError
from natix_hf.files import read_json, write_json
from natix_hf.hub.proof_photos import Photos, proof_photos
from natix_hf.inference.batches import logits_of, photo_batches
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.photo_size import at_size
from natix_hf.logits import softmax
from natix_hf.modeling.exports import FORMS, ExportForm
from natix_hf.modeling.exports.export_form import labels_of
from natix_hf.photos.geometry import Geometry

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("client.py")
# Largest difference allowed, by how weights are stored. Logits: times the largest logit of the run where that is over
# 1. bf16 keeps 8 bits of each weight. Pixels: of normalised photos, where one grey level is 0.017.
TOLERANCES = {
    "fp32": {"logits": 1e-4, "probabilities": 5e-5, "pixels": 1e-5},
    "bf16": {"logits": 0.05, "probabilities": 0.03, "pixels": 1e-5},
}
SAME_PROCESS, WITH, WITHOUT = "same process", "fresh process, natix_hf imported", "fresh process without natix_hf"


class Answers(NamedTuple):
    """What a client made of the photos: `(n, [views,] 3, H, W)`, `(n, classes)` twice; `labels`: its class names."""

    client: AskedClient
    labels: list[str]
    pixels: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray


def prove(
    run: str | Path,
    export: str | Path,
    *,
    photos: Sequence[Any] | Photos | None = None,
    client_python: str | Path | None = None,
    base: str | Path | None = None,
    online: bool = False,
    clients: Sequence[str] = (WITH, WITHOUT),
    say: Callable[[str], None] | None = None,
) -> Proof:
    """Compare an export with its run, in this process and in fresh ones.

    Args:
        run: folder of the finished run.
        export: a folder, or the Hub id of what was pushed (then `online`).
        photos: paths or bytes instead of the run's own; or what `proof_photos` returned before.
        client_python: an interpreter of a client, used besides this one.
        base: adapter in a folder: the folder of its base, where the name that it bears leads nowhere yet.
        online: let clients reach the Hub.
        clients: which of `WITH` and `WITHOUT` to start.
        say: is told why the run's own photos are not used, where they are not.

    Returns:
        What is also written as `proof.json` where `export` is a folder.

    Raises:
        UserError: a client fails, or differs by more than the tolerance; names the client and the difference.
    """
    run, folder = Path(run), Path(export).expanduser()
    if not isinstance(photos, Photos):
        photos = proof_photos(run, photos)
    if say is not None and photos.reason is not None:
        say(f"proof: the run's own photos of val_select cannot be had, scenes are generated: {photos.reason}")
    with tempfile.TemporaryDirectory(prefix="natix_hf-proof-") as name:
        work = Path(name)
        for index, content in enumerate(photos.content):
            (work / "photos").mkdir(exist_ok=True)
            (work / "photos" / f"{index:03d}.photo").write_bytes(content)
        paths = sorted(str(path) for path in (work / "photos").iterdir())
        target = str(folder.absolute()) if folder.is_dir() else str(export)
        if base is not None and folder.is_dir():
            target = str(_on_base(folder, Path(base).expanduser().absolute(), work / "adapter"))
        path = _about(target)
        about = Export.parse(path.read_bytes(), str(path))
        if about.format not in FORMS:
            raise UserError(f"{path}: format {about.format}, one of {', '.join(FORMS)} expected: export the run again")
        int8 = about.dtype == "int8"
        tolerance = dict(TOLERANCES["fp32" if int8 else about.dtype])
        expected = _here(str(run), paths, about.image_size if about.calibrated_at else None)
        way = "; weights in bf16 are too coarse for this model: store them with --dtype fp32"
        way = way if about.dtype == "bf16" else ""
        tolerance["logits"] *= max(1.0, float(np.abs(expected.logits).max()))
        here = _here(target, paths)
        # An int8 graph answers otherwise than its run; its export has judged by how much. Clients answer as it does.
        checks = [_compare(expected, here, {"pixels": tolerance["pixels"]} if int8 else tolerance, way)]
        expected = here if int8 else expected
        for who, python in [*((who, sys.executable) for who in clients), ("client_python", client_python)]:
            if python is None:
                continue
            found = _elsewhere(who, str(python), target, FORMS[about.format], work, online)
            checks.append(_compare(expected, found, tolerance, way))
    document = Proof(
        format=about.format,
        dtype=about.dtype,
        model=about.model,
        pushed=not folder.is_dir(),
        photos=ProofPhotos(source=photos.source, n=len(paths), fingerprint=photos.fingerprint),
        labels=expected.labels,
        tolerance=tolerance,
        clients=checks,
        **({"quantised": about.quantised} if about.quantised else {}),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if folder.is_dir():
        document.write(folder)
    return document


def clients_of(base: str | Path | None) -> tuple[str, ...]:
    """Who can load an export; `base` is an adapter's: transformers alone makes no classifier of a raw DINOv3."""
    if base is not None and read_json(Path(base).expanduser() / "config.json").get("model_type") != "natix_dinov3":
        return (WITH,)
    return WITH, WITHOUT


def _about(target: str) -> Path:
    """Where `export.json` of a folder or a repository is."""
    if Path(target).is_dir():
        path = Path(target) / "export.json"
        if not path.is_file():
            raise UserError(f"{target}: no export.json: give a folder that natix_hf.export wrote")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(target, "export.json"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"{target}: no export.json can be had from there ({type(error).__name__})") from None


def _on_base(folder: Path, base: Path, copy: Path) -> Path:
    """A copy of an adapter that names a folder as its base."""
    shutil.copytree(folder, copy)
    config = read_json(copy / "adapter_config.json")
    write_json(copy / "adapter_config.json", config | {"base_model_name_or_path": str(base)})
    return copy


def _here(name: str, paths: Sequence[str], image_size: int | list[int] | None = None) -> Answers:
    """The answers of a model in this process, on the path that all of the project's figures take; `image_size` is that
    of an export whose photos are seen at another size than the run's."""
    begin = time.perf_counter()
    model, processor = load_classifier(name)
    processor = at_size(processor, Geometry.of(processor).at(image_size)) if image_size else processor
    loaded, spent = time.perf_counter(), time.process_time()
    pixels, logits = [], []
    for batch in photo_batches(paths, processor, batch_size=8):
        if batch.broken:
            raise UserError(f"proof: {batch.broken[0][1]}")
        pixels.append(batch.pixels.numpy())
        logits.append(logits_of(model, batch.pixels))
    done, processed = time.perf_counter(), time.process_time()
    logits = np.concatenate(logits)
    client = AskedClient(
        client=SAME_PROCESS,
        **{"class": type(model).__name__},
        versions={},
        import_seconds=0.0,
        load_seconds=round(loaded - begin, 3),
        photos_per_second=round(len(paths) / (done - loaded), 3),
        photos_per_cpu_second=round(len(paths) / (processed - spent), 3),
    )
    return Answers(client, labels_of(model), np.concatenate(pixels), logits, softmax(logits))


def _elsewhere(who: str, python: str, target: str, form: type[ExportForm], work: Path, online: bool) -> Answers:
    """The answers of `client.py` in a process of its own that has nothing of this one but the machine."""
    out = work / "answers.npz"
    shutil.copyfile(CLIENT, work / "client.py")
    command = [python, str(work / "client.py"), target, str(work / "photos"), str(out)]
    if form.session is not None:
        source = f"from __future__ import annotations\n\n{inspect.getsource(form.session)}"
        (work / "session.py").write_text(source, encoding="utf-8")
        command += ["--session", form.reader]
    if who == WITH:
        command += ["--import_package", str(REPOSITORY)]
    else:
        command += ["--without_package", *(["--trust_remote_code"] if form.own_code else [])]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if not online:
        kept = {name: value for name, value in kept.items() if not name.startswith("HF_")} | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(dir=work) as cache:
        # TRANSFORMERS_CACHE and its like are older names of what HF_HOME moves.
        environment = {
            **{name: value for name, value in kept.items() if not name.endswith("_CACHE")},
            "HF_HOME": cache,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        if online and "HF_TOKEN" not in kept:
            from huggingface_hub import get_token

            environment |= {"HF_TOKEN": token} if (token := get_token()) else {}
        try:
            done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True)
        except OSError as error:
            raise UserError(f"--client_python {python}: cannot be started: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"proof: {who} ({python}) could not load the export or answer: {' '.join(lines[-1:])[:500]}")
    labels, report = json.loads(done.stdout.splitlines()[-1])
    with np.load(out) as arrays:
        client = AskedClient(client=who, **report)
        return Answers(client, labels, arrays["pixels"], arrays["logits"], arrays["probabilities"])


def _compare(expected: Answers, found: Answers, tolerance: dict[str, float], way: str = "") -> ProvenClient:
    """What a client's answers differ by; `UserError`, ending in the `way` out, where that is too much.

    Where `tolerance` does not name a kind of answer, any difference that is a number will do.
    """
    who = found.client.client
    if found.labels != expected.labels:
        raise UserError(
            f"proof: {who}: the classes are {', '.join(found.labels)} there, and {', '.join(expected.labels)} in the "
            "run, in this order: the export does not answer like the run"
        )
    differences = {}
    for name in ("pixels", "logits", "probabilities"):
        one, other = getattr(expected, name), getattr(found, name)
        if one.shape != other.shape:
            raise UserError(f"proof: {who}: {name} are of shape {other.shape} there, and {one.shape} in the run")
        difference = float(np.abs(one.astype(np.float64) - other).max())
        if not difference <= tolerance.get(name, np.inf):  # NaN is refused too
            raise UserError(
                f"proof: {who}: {name} differ by up to {difference:.3g}, {tolerance.get(name, np.inf):.3g} are "
                f"allowed: the export does not answer like the run{way}"
            )
        differences[name] = difference
    one, other = expected.probabilities, found.probabilities
    # A decision may turn only where the run itself is undecided within the tolerance.
    ordered = np.sort(one, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] > 2 * tolerance.get("probabilities", 1.0)
    same = one.argmax(axis=1) == other.argmax(axis=1)
    if (sure & ~same).any():
        raise UserError(f"proof: {who}: {int((sure & ~same).sum())} of {len(one)} photos are decided otherwise there")
    decisions = SameDecisions(same=int(same.sum()), of=len(same))
    return ProvenClient(**found.client.plain(), **differences, decisions=decisions)
