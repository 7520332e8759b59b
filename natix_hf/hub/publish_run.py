"""Publishes a finished run on the Hub: exports and verifies it, adds the card, pushes one commit, tags the version.

A model is pushed only if it gives the same outputs as the run. A better model is overwritten only with `force`. No
photos (unless requested), coordinates, pickled files, checkpoints or predictions are uploaded. After an interruption
the same command continues, because the Hub skips files that it already has. `huggingface_hub` finds the token; this
module never handles it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.export import Export, Proof
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.published_version import PublishedVersion
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_file
from natix_hf.hub.bundle import write_bundle
from natix_hf.hub.export_forms import export_run, load_run
from natix_hf.hub.hub_errors import check_name, check_private, check_token, hub_faults
from natix_hf.hub.proof import TOLERANCES, clients_of, prove
from natix_hf.hub.proof_photos import proof_photos
from natix_hf.inference.batches import logits_of, photo_batches
from natix_hf.inference.graph_classifier import GRAPHS
from natix_hf.logits import softmax
from natix_hf.modeling.exports import FORMS
from natix_hf.modeling.exports.adapter_folder import base_folder
from natix_hf.modeling.exports.export_form import labels_of
from natix_hf.modeling.exports.onnx import Onnx
from natix_hf.report.sections import Section
from natix_hf.streetvision import client_files as streetvision
from natix_hf.streetvision.reward import HALTED

VERSION = "1.0.0"
RECORD = "publication.json"
# Only files with these suffixes are pushed.
OURS = (".safetensors", ".json", ".py", ".png", ".html", ".md", ".yaml", ".yml")
OURS += tuple(f"{Path(form.graph).suffix}{end}" for form in GRAPHS.values() for end in ("", ".data"))


@dataclass(frozen=True)
class Publication:
    """What to publish, and how.

    Args:
        repo_id: owner/name of the model on the Hub.
        form: `auto` (stock if it can hold the model, else merged) or one of `exports.FORMS`.
        private: create the repository as private; an existing one must be private.
        version: X.Y.Z, also the tag.
        hotkey: a StreetVision participant's SS58 address; None for models that are not submitted there.
        dtype: type of the stored weights; int8 goes with `onnx`.
        base_id: for an adapter: Hub id of its base.
        max_changed: for int8: highest share of decisions that may differ from the run's.
        dataset_name: where the run's photos are now, if not where its recipe says.
        photos: paths of other photos for the proof.
        force: overwrite a better model, or one that this command did not push.
        include_photos: also push the report page with the photos of its gallery.
        client_python: a further interpreter for the proof.
    """

    repo_id: str
    form: str = "auto"
    private: bool = False
    version: str = VERSION
    hotkey: str | None = None
    dtype: str = "fp32"
    base_id: str | None = None
    max_changed: float = Onnx.max_changed
    dataset_name: str | None = None
    photos: Sequence[Any] | None = None
    force: bool = False
    include_photos: bool = False
    client_python: str | None = None


class Place(NamedTuple):
    """State of the repository: its newest commit (None if it does not exist) and the files that a push replaces."""

    head: str | None
    replaced: frozenset[str]


def check_publication(asked: Publication) -> None:
    """Check name, version, hotkey, form and token, without network, model or photos; raise `UserError` if invalid."""
    check_name(asked.repo_id, "a model", "me/roadwork-dinov3")
    streetvision.check_version(asked.version)
    if asked.hotkey is not None:
        streetvision.check_asked(asked.hotkey, asked.form)
    if asked.dtype == "int8" and asked.form != "onnx":
        raise UserError(f"--dtype int8: --format {asked.form} cannot hold it: add --format onnx")
    check_token(asked.repo_id)


def find_place(asked: Publication, tested: Tested | None = None) -> Place:
    """The state of the repository on the Hub. Changes nothing.

    Args:
        asked: what to publish.
        tested: the figures of the run, if it is already evaluated.

    Raises:
        UserError: the token is invalid or cannot write, the version exists already, or the content of the repository
            must not be overwritten.
    """
    api = HfApi(library_name="natix_hf")
    with hub_faults(asked.repo_id):
        _check_rights(api, asked.repo_id)
        try:
            info = api.model_info(asked.repo_id)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
            return Place(None, frozenset())
        check_private(asked.repo_id, "the model", asked=asked.private, found=info.private)
        if asked.version in {tag.name for tag in api.list_repo_refs(asked.repo_id).tags}:
            raise UserError(
                f"--model_version {asked.version}: {asked.repo_id} already has this version: give a higher one"
            )
        files = {file.rfilename for file in info.siblings or []}
        return Place(info.sha, frozenset(_replaced(api, asked, tested, files, info.sha)))


def _check_rights(api: HfApi, repo_id: str) -> None:
    """Refuse a token that cannot write. The rights of a fine-grained token are known only to the Hub."""
    me, owner = api.whoami(), repo_id.partition("/")[0]
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError(
            f"push {repo_id}: the token can only read: make one with write access (hf.co/settings/tokens), and log in "
            "with `hf auth login` or set HF_TOKEN"
        )
    owners = [me["name"], *(organisation["name"] for organisation in me.get("orgs", []))]
    if role == "write" and owner not in owners:
        raise UserError(
            f"push {repo_id}: the token belongs to {me['name']}, who is not a member of {owner}: push to "
            f"{' or '.join(f'{name}/...' for name in owners)}, or log in as another user"
        )


def _replaced(api: HfApi, asked: Publication, tested: Tested | None, files: set[str], revision: str) -> set[str]:
    """The files that the new version replaces. Refuses if natix_hf did not push them or if they are a better model."""
    content = files - {".gitattributes", "README.md"}
    if not content:
        return set()
    try:
        with tempfile.TemporaryDirectory() as folder:
            if RECORD not in files:
                raise ValueError
            path = api.hf_hub_download(asked.repo_id, RECORD, revision=revision, local_dir=folder)
            published = PublishedVersion.parse(Path(path).read_bytes(), RECORD)
    except ValueError:
        if asked.force:
            return content
        raise UserError(
            f"push {asked.repo_id}: the repository holds a model that was not published by natix_hf: choose another "
            "name, or add --force to replace it"
        ) from None
    if tested is not None and not asked.force and published.test == tested.test:
        mcc, loss = tested.value("mcc"), tested.value("log_loss")
        if _rank(published.mcc, published.log_loss) > _rank(mcc, loss):
            raise UserError(
                f"push {asked.repo_id}: the published model (version {published.version}) is better on the same "
                f"{tested.figures.n} test photos: MCC {_shown(published.mcc)} against {_shown(mcc)}, NLL "
                f"{_shown(published.log_loss)} against {_shown(loss)}: add --force to replace it"
            )
    return files & set(published.files)


def _rank(mcc: float | None, loss: float | None) -> tuple[float, float]:
    """Sort key: by MCC, then by log loss. An undefined figure is worse than any other."""
    return -math.inf if mcc is None else mcc, -math.inf if loss is None else -loss


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def publish(
    run: Path,
    asked: Publication,
    say: Callable[[str], None] = print,
    *,
    export_int8: Callable[..., Export] | None = None,
) -> str:
    """Export the run, verify the export, push it, and verify the pushed model.

    Args:
        run: folder of an evaluated run.
        asked: what to publish, and how.
        say: gets lines on what is done.
        export_int8: `runs.export_int8.export_int8`, which reads photos of the run; needed for int8 alone.

    Returns:
        The URL of the model.

    Raises:
        UserError: a check fails, an output differs from the run's, or the Hub refuses the push.
    """
    check_publication(asked)
    if asked.hotkey is not None:
        say(HALTED)
    tested = tested_run(run)
    place = find_place(asked, tested)
    api = HfApi(library_name="natix_hf")
    with tempfile.TemporaryDirectory(prefix="natix_hf_publish_") as work:
        folder = Path(work) / "model"
        form = _export(run, folder, asked, say, export_int8)
        photos = proof_photos(run, asked.photos, dataset_name=asked.dataset_name)
        base = base_folder(folder) if FORMS[form].on_base else None
        proving = {"photos": photos, "client_python": asked.client_python, "clients": clients_of(base)}
        try:
            proof = prove(run, folder, base=base, say=say, **proving)
        except UserError as error:
            hint = "" if asked.hotkey is None else streetvision.upgrade_hint(str(error))
            raise UserError(f"{str(error).rstrip('.')}{hint}: nothing was pushed") from None
        say(_proof_line("before the push", proof))
        extra = [] if asked.hotkey is None else [_submitted(run, folder, asked, photos.content, say)]
        shown = {"include_photos": asked.include_photos, "extra": extra, "quantised": proof.quantised}
        write_bundle(run, folder, asked.repo_id, form, **shown)
        _write_version(folder, asked, form, proof.model, tested)
        with hub_faults(asked.repo_id):
            commit = _push(api, asked, folder, place, say)
        address = f"{api.endpoint}/{asked.repo_id}"
        try:
            pushed_proof = prove(run, asked.repo_id, online=True, **proving)
        except UserError as error:
            raise UserError(
                f"push {asked.repo_id}: the model is at {address}, but without the tag {asked.version}, because "
                f"its proof failed there: {error}"
            ) from None
        say(_proof_line("after the push", pushed_proof))
        with hub_faults(asked.repo_id):
            api.create_tag(asked.repo_id, tag=asked.version, revision=commit, tag_message=f"version {asked.version}")
    return address


class Tested(NamedTuple):
    """The fingerprint of a run's test photos and the figures on them, by which two versions are compared."""

    test: str
    figures: FinalFigures

    def value(self, metric: str) -> float | None:
        return self.figures.metrics[metric].value


def tested_run(run: Path) -> Tested:
    """The figures of an evaluated run.

    Raises:
        UserError: the run was not evaluated, or it was calibrated again afterwards.
    """
    if not (run / "metrics.json").is_file():
        raise UserError(f"{run}: no metrics.json: run `python -m natix_hf.evaluate {run}` first")
    metrics, evaluated = FinalFigures.read(run), StepRecord.of(run, "evaluate")
    used = evaluated and evaluated.reads["calibration.json"].fingerprint  # a refit evaluates nothing
    if used and used != fingerprint_file(run / "calibration.json"):
        raise UserError(
            f"{run}: calibrated again after its figures were computed, so they do not belong to this model: "
            f"run `python -m natix_hf.evaluate {run}` first"
        )
    return Tested(read_certificate(run).fingerprints["val_test"], metrics)


def _export(
    run: Path,
    folder: Path,
    asked: Publication,
    say: Callable[[str], None],
    export_int8: Callable[..., Export] | None,
) -> str:
    """Export the run to a folder; returns the form."""
    options = {"dtype": asked.dtype, "base_id": asked.base_id, "max_changed": asked.max_changed}
    if asked.dtype == "int8":
        export_int8(run, asked.form, folder, dataset_name=asked.dataset_name, say=say, **options)
        return asked.form
    form = "stock" if asked.form == "auto" else asked.form
    try:
        export_run(run, form, folder, **options)
    except UserError as error:
        if asked.hotkey is not None:
            raise UserError(f"--hotkey: StreetVision's clients load a stock model: {error}") from None
        if asked.form != "auto":
            raise
        say(f"stock cannot hold this model, so it is published as merged: {error}")
        form = "merged"
        export_run(run, form, folder, **options)
    return form


def _write_version(folder: Path, asked: Publication, form: str, model: str, tested: Tested) -> None:
    """Write the record by which the next push compares its model with this one, into an otherwise complete folder."""
    pushed = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    PublishedVersion(
        version=asked.version,
        test=tested.test,
        n=tested.figures.n,
        mcc=tested.value("mcc"),
        accuracy=tested.value("accuracy"),
        log_loss=tested.value("log_loss"),
        honest_run=tested.figures.honest_run,
        dtype=asked.dtype,
        format=form,
        model=model,
        files=sorted([RECORD, *pushed]),
    ).write(folder)


def _submitted(
    run: Path, folder: Path, asked: Publication, photos: list[bytes], say: Callable[[str], None]
) -> Section:
    """Write StreetVision's files; returns the card section about the latency of the network's client."""
    model, processor = load_run(run)
    streetvision.check_labels(labels_of(model))
    logits = [logits_of(model, batch.pixels) for batch in photo_batches(photos, processor)]
    client_check = streetvision.submit(
        folder,
        photos,
        softmax(np.concatenate(logits))[:, 1],
        repo_id=asked.repo_id,
        hotkey=asked.hotkey,
        version=asked.version,
        python=asked.client_python,
        tolerance=TOLERANCES[asked.dtype]["probabilities"],
        say=say,
    )
    return streetvision.latency_section(client_check)


def _push(api: HfApi, asked: Publication, folder: Path, place: Place, say: Callable[[str], None]) -> str:
    """Push all files in one commit; returns its id."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    odd = [path.name for path in files if not path.name.endswith(OURS)]
    if odd:
        raise UserError(
            f"push {asked.repo_id}: {', '.join(odd)}: not a file of a model; nothing was pushed: export again"
        )
    head = place.head
    if head is None:
        # Without --private the owner's default on the Hub applies.
        api.create_repo(asked.repo_id, private=asked.private or None)
        head = api.model_info(asked.repo_id).sha
    additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    stale = sorted(place.replaced - {addition.path_in_repo for addition in additions})
    size = sum(path.stat().st_size for path in files) / 1e6
    say(f"pushing {len(files)} files, {size:.1f} MB, to {asked.repo_id}")
    commit = api.create_commit(
        asked.repo_id,
        [*additions, *map(CommitOperationDelete, stale)],
        commit_message=f"Version {asked.version}",
        parent_commit=head,
    )
    return commit.oid


def _proof_line(when: str, proof: Proof) -> str:
    if proof.quantised is not None:
        graph, *clients = proof.clients
        return (
            f"proof {when}: {proof.photos.n} photos, {len(clients)} clients answer as the graph does; the graph "
            f"decides {graph.decisions.same} of {graph.decisions.of} at 0.5 as the run does"
        )
    largest = max(client.probabilities for client in proof.clients)
    return (
        f"proof {when}: {proof.photos.n} photos through {len(proof.clients)} clients, probabilities differ by at most "
        f"{largest:.1e}, every decision at 0.5 is the same as the run's"
    )
