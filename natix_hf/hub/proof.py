"""The round-trip proof: the run, its export and clients in fresh processes give the same outputs for the same photos.

    export = export_run(run, "stock", folder)            # hub/export_forms.py; writes export.json
    proof = prove(run, folder)                           # writes proof.json
    proof = prove(run, "owner/name", online=True)        # proves a pushed model; the caller writes the document

If an output differs, `prove` writes nothing and raises a `UserError` that names the client and the difference. The
clients run `client.py` with an empty Hugging Face cache, and without network unless `online`: one with natix_hf
imported, one without it, and one in `client_python` if given. The photos come from the run's `val_select` or are
generated (`proof_photos.py`). They never come from `val_test`.
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
# Largest allowed difference for each weight type. The limit for logits is multiplied by the run's largest absolute
# logit if that is above 1. bf16 keeps 8 bits of each weight. Pixels are normalised; one grey level is 0.017.
TOLERANCES = {
    "fp32": {"logits": 1e-4, "probabilities": 5e-5, "pixels": 1e-5},
    "bf16": {"logits": 0.05, "probabilities": 0.03, "pixels": 1e-5},
}
REMEDIES = {"bf16": "; weights in bf16 are too coarse for this model: store them with --dtype fp32"}
SAME_PROCESS, WITH, WITHOUT = "same process", "fresh process, natix_hf imported", "fresh process without natix_hf"


class Answers(NamedTuple):
    """A client's outputs: pixels `(n, [views,] 3, H, W)`, logits and probabilities `(n, classes)`, class names."""

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
    dataset_name: str | None = None,
    client_python: str | Path | None = None,
    base: str | Path | None = None,
    online: bool = False,
    clients: Sequence[str] = (WITH, WITHOUT),
    say: Callable[[str], None] | None = None,
) -> Proof:
    """Compare an export with its run, in this process and in fresh ones.

    Args:
        run: folder of the finished run.
        export: a folder, or the Hub id of a pushed model (which needs `online`).
        photos: paths or bytes to use instead of the run's photos, or an earlier result of `proof_photos`.
        dataset_name: where the run's photos are now, if not where its recipe says.
        client_python: a further interpreter to run a client in.
        base: for an adapter whose base is not on the Hub yet: the folder of the base.
        online: let clients reach the Hub.
        clients: which of `WITH` and `WITHOUT` to start.
        say: called with the reason if the run's own photos cannot be used.

    Returns:
        The proof, which is also written as `proof.json` if `export` is a folder.

    Raises:
        UserError: a client fails or differs by more than the tolerance.
    """
    run, folder = Path(run), Path(export).expanduser()
    if not isinstance(photos, Photos):
        photos = proof_photos(run, photos, dataset_name=dataset_name)
    if say is not None and photos.reason is not None:
        say(f"proof: scenes are generated, because the run's photos of val_select are not available: {photos.reason}")
    with tempfile.TemporaryDirectory(prefix="natix_hf-proof-") as name:
        work = Path(name)
        paths = _write_photos(photos.content, work / "photos")
        target = str(folder.absolute()) if folder.is_dir() else str(export)
        if base is not None and folder.is_dir():
            target = str(_on_base(folder, Path(base).expanduser().absolute(), work / "adapter"))
        description = _description(target)
        expected = _here(str(run), paths, description.image_size if description.calibrated_at else None)
        tolerance = _tolerance(description.dtype, expected.logits)
        remedy = REMEDIES.get(description.dtype, "")
        here = _here(target, paths)
        # An int8 graph differs from its run, by an amount that its export checked. Clients must match the graph.
        int8 = description.dtype == "int8"
        checks = [_compare(expected, here, {"pixels": tolerance["pixels"]} if int8 else tolerance, remedy)]
        expected = here if int8 else expected
        pythons = [(client, sys.executable) for client in clients]
        pythons += [] if client_python is None else [("client_python", str(client_python))]
        for client, python in pythons:
            answers = _elsewhere(client, python, target, FORMS[description.format], work, online)
            checks.append(_compare(expected, answers, tolerance, remedy))
    document = Proof(
        format=description.format,
        dtype=description.dtype,
        model=description.model,
        pushed=not folder.is_dir(),
        photos=ProofPhotos(source=photos.source, n=len(paths), fingerprint=photos.fingerprint),
        labels=expected.labels,
        tolerance=tolerance,
        clients=checks,
        **({"quantised": description.quantised} if description.quantised else {}),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if folder.is_dir():
        document.write(folder)
    return document


def clients_of(base: str | Path | None) -> tuple[str, ...]:
    """The clients that can load an export.

    Args:
        base: folder of an adapter's base, else None. Without natix_hf, transformers cannot load an adapter whose base
            is a plain DINOv3 checkpoint.
    """
    if base is not None and read_json(Path(base).expanduser() / "config.json").get("model_type") != "natix_dinov3":
        return (WITH,)
    return WITH, WITHOUT


def _write_photos(content: Sequence[bytes], folder: Path) -> list[str]:
    """Write the photos of a proof into a new folder, where the names keep their order; returns their paths."""
    folder.mkdir()
    for index, photo in enumerate(content):
        (folder / f"{index:03d}.photo").write_bytes(photo)
    return sorted(str(path) for path in folder.iterdir())


def _tolerance(dtype: str, logits: np.ndarray) -> dict[str, float]:
    """Largest allowed differences for weights of a type, given the run's logits; an int8 graph computes in fp32."""
    tolerance = dict(TOLERANCES["fp32" if dtype == "int8" else dtype])
    tolerance["logits"] *= max(1.0, float(np.abs(logits).max()))
    return tolerance


def _description(target: str) -> Export:
    """The `export.json` of a folder or a Hub repository."""
    path = _description_path(target)
    description = Export.parse(path.read_bytes(), str(path))
    if description.format not in FORMS:
        raise UserError(
            f"{path}: format: expected one of {', '.join(FORMS)}; found {description.format}: export the run again"
        )
    return description


def _description_path(target: str) -> Path:
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
        raise UserError(f"{target}: export.json cannot be downloaded from there ({type(error).__name__})") from None


def _on_base(folder: Path, base: Path, copy: Path) -> Path:
    """A copy of an adapter folder with the base replaced by a local folder."""
    shutil.copytree(folder, copy)
    config = read_json(copy / "adapter_config.json")
    write_json(copy / "adapter_config.json", config | {"base_model_name_or_path": str(base)})
    return copy


def _here(name: str, paths: Sequence[str], image_size: int | list[int] | None = None) -> Answers:
    """The outputs of a model in this process, computed in the same way as all figures of the project.

    Args:
        name: a folder or a Hub id.
        paths: of the photos.
        image_size: the image size of an export that differs from that of the run.
    """
    begin = time.perf_counter()
    model, processor = load_classifier(name)
    processor = at_size(processor, Geometry.of(processor).at(image_size)) if image_size else processor
    loaded, spent = time.perf_counter(), time.process_time()
    pixels, logits = [], []
    for batch in photo_batches(paths, processor, batch_size=8):
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
    """The outputs of `client.py` in a separate process that shares no state with this one."""
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
    with tempfile.TemporaryDirectory(dir=work) as cache:
        environment = _client_environment(cache, online)
        try:
            done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True)
        except OSError as error:
            raise UserError(f"--client_python {python}: cannot be started: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(
            f"proof: {who} ({python}) could not load the export or classify photos: {' '.join(lines[-1:])[:500]}"
        )
    labels, report = json.loads(done.stdout.splitlines()[-1])
    with np.load(out) as arrays:
        client = AskedClient(client=who, **report)
        return Answers(client, labels, arrays["pixels"], arrays["logits"], arrays["probabilities"])


def _client_environment(cache: str, online: bool) -> dict[str, str]:
    """The environment variables of a client that shares no caches and no settings with this process."""
    # TRANSFORMERS_CACHE and similar variables would override HF_HOME.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME")
        and not name.endswith("_CACHE")
        and (online or not name.startswith("HF_"))
    }
    environment = inherited | {"HF_HOME": cache, "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
    if not online:
        return environment | {"HF_HUB_OFFLINE": "1"}
    if "HF_TOKEN" not in environment:
        from huggingface_hub import get_token

        environment |= {"HF_TOKEN": token} if (token := get_token()) else {}
    return environment


def _compare(expected: Answers, answers: Answers, tolerance: dict[str, float], remedy: str) -> ProvenClient:
    """How much a client's outputs differ from the expected ones.

    Args:
        expected, answers: the outputs to compare.
        tolerance: largest differences; an output that it does not name may differ by any finite number.
        remedy: the end of the error message.

    Raises:
        UserError: a difference is above its tolerance.
    """
    who = answers.client.client
    if answers.labels != expected.labels:
        raise UserError(
            f"proof: {who}: expected the classes {', '.join(expected.labels)}, in this order; found "
            f"{', '.join(answers.labels)}: the export does not give the same outputs as the run"
        )
    differences = {}
    for name in ("pixels", "logits", "probabilities"):
        of_run, of_client = getattr(expected, name), getattr(answers, name)
        if of_run.shape != of_client.shape:
            raise UserError(
                f"proof: {who}: {name}: expected shape {of_run.shape} as in the run, found {of_client.shape}"
            )
        difference = float(np.abs(of_run.astype(np.float64) - of_client).max())
        if not difference <= tolerance.get(name, np.inf):  # NaN is refused too
            raise UserError(
                f"proof: {who}: {name}: expected to differ by at most {tolerance.get(name, np.inf):.3g}, found up to "
                f"{difference:.3g}: the export does not give the same outputs as the run{remedy}"
            )
        differences[name] = difference
    # With the tolerance above, a decision differs only if the run's two best classes are within twice that tolerance.
    same = expected.probabilities.argmax(axis=1) == answers.probabilities.argmax(axis=1)
    decisions = SameDecisions(same=int(same.sum()), of=len(same))
    return ProvenClient(**answers.client.plain(), **differences, decisions=decisions)
