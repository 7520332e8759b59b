"""Pushes a folder of four splits to the Hub as a data set: parquet shards, card and certificate in one commit.

Before any upload, the certificate is checked against the bytes of the photos. Shards are written, uploaded and removed
one at a time, and the commit makes all of them visible at once, so a reader never sees a half-finished push. After an
interruption the same command continues, because the Hub skips files that it already has. `huggingface_hub` finds the
token; this module never handles it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Image, Value, load_from_disk
from datasets.arrow_writer import get_parquet_column_options
from datasets.config import DEFAULT_CDC_OPTIONS
from datasets.exceptions import DatasetsError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import tqdm

from natix_hf.data.splits.certificate import bind, read_certificate
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_bytes
from natix_hf.hub.dataset_card import dataset_card, hub_features
from natix_hf.hub.hub_errors import check_name, check_private, check_token, hub_faults

SHARD_BYTES = 500 * 10**6
BATCH_BYTES, BATCH_ROWS = 32 * 10**6, 100  # limits of a row group, which is written and read as a whole
BESIDE = ("splits.json", "SPLITS.md", "conflicts.png")


def push(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Push the splits to `repo_id`, which is created if it does not exist.

    Args:
        folder: a folder written by `natix_hf.data.splits.saved_folder.save`.
        private: create the repository as private; an existing one must be private.

    Returns:
        The URL of the data set.

    Raises:
        UserError: the folder does not match its certificate, or the Hub refuses the push.
    """
    folder = Path(folder)
    check_name(repo_id, "a data set", "me/roadwork-4way")
    certificate, data = _read(folder)
    card = dataset_card(certificate, data, repo_id)
    api = HfApi(library_name="natix_hf")
    address = f"{api.endpoint}/datasets/{repo_id}"
    check_token(repo_id)
    with hub_faults(repo_id), tempfile.TemporaryDirectory(prefix="natix_hf_push_") as stage:
        head, files = _repository(api, repo_id, private)
        shards = list(_uploaded(api, repo_id, data, Path(stage)))
        beside = [name for name in BESIDE if (folder / name).is_file()]
        additions = [
            CommitOperationAdd("README.md", card.encode()),
            *(CommitOperationAdd(name, folder / name) for name in beside),
            *shards,
        ]
        pushed = {addition.path_in_repo for addition in additions}
        stale = sorted(name for name in files - pushed if name in BESIDE or re.fullmatch(r"data/[^/]+\.parquet", name))
        api.create_commit(
            repo_id,
            [*additions, *map(CommitOperationDelete, stale)],
            commit_message=f"Four splits of {len(shards)} shards, fingerprint {certificate.fingerprint}",
            repo_type="dataset",
            parent_commit=head,
        )
    return address


def _read(folder: Path) -> tuple[SplitCertificate, DatasetDict]:
    """The certificate and the splits, after checking that they belong together."""
    if not (folder / "dataset_dict.json").is_file() or not (folder / "splits.json").is_file():
        raise UserError(
            f"{folder}: dataset_dict.json or splits.json is missing, so this is not a folder of splits: make one with "
            "python -m natix_hf.data split SOURCE --output FOLDER"
        )
    certificate = read_certificate(folder)
    try:
        data = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException, DatasetsError) as error:
        raise UserError(f"{folder}: not a complete save_to_disk folder ({error}): split again") from error
    if set(data) != set(SPLITS):
        raise UserError(f"{folder}: expected the splits {', '.join(SPLITS)}; found {', '.join(data)}: split again")
    differ = bind(certificate, {split: _measured(data[split], folder, split) for split in SPLITS})
    if differ:
        raise UserError(f"{folder}: {'; '.join(differ[:3])}; nothing was pushed: split again")
    if certificate.straddling:
        raise UserError(
            f"{folder}: {certificate.straddling} groups are in more than one split; nothing was pushed: split again "
            "without the source's own splits"
        )
    return certificate, data


def _measured(rows: Dataset, folder: Path, split: str) -> Dataset:
    """`id`, `label` and fingerprints computed from the stored photos instead of those in the column."""
    photos = rows.data.table.column("image")
    if pc.struct_field(photos, "bytes").null_count:
        raise UserError(f"{folder}: photos of {split} are missing (paths without bytes): split again")
    prints: list[str] = []
    with tqdm(total=len(rows), desc=f"checking {split}", unit="photo", leave=False) as bar:
        for start, stop in batches(_photo_bytes(rows), BATCH_BYTES, BATCH_ROWS):
            part = pc.struct_field(photos.slice(start, stop - start), "bytes")
            prints += [fingerprint_bytes(photo.as_buffer()) for photo in part]
            bar.update(stop - start)
    return rows.select_columns(["id", "label"]).add_column("fingerprint", prints, feature=Value("string"))


def _photo_bytes(rows: Dataset) -> np.ndarray:
    """`(n,)` size of each photo in bytes, read from the table's offsets."""
    return pc.binary_length(pc.struct_field(rows.data.table.column("image"), "bytes")).to_numpy()


def batches(sizes: np.ndarray, most_bytes: int, most_rows: int | None = None) -> Iterator[tuple[int, int]]:
    """Consecutive `(start, stop)` ranges of rows within both limits. A row over the limit is a batch by itself.

    Args:
        sizes: `(n,)` size of each row in bytes.
        most_bytes: limit of a batch in bytes.
        most_rows: limit of a batch in rows; None for no limit.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + most_bytes, side="right")), start + 1)
        stop = stop if most_rows is None else min(stop, start + most_rows)
        yield start, stop
        start = stop


def write_shard(rows: Dataset, path: Path) -> None:
    """Write rows as parquet, one row group at a time. The same rows give the same file.

    Args:
        rows: rows with embedded photos. Only the file name of each path is kept.
    """
    features = hub_features(rows.features)
    schema = features.arrow_schema
    photos = [name for name, kind in features.items() if isinstance(kind, Image)]
    # Photo columns use no compression and no dictionary. With content-defined chunks the Hub stores only what changed.
    options = {**get_parquet_column_options(features, schema), "use_content_defined_chunking": DEFAULT_CDC_OPTIONS}
    with pq.ParquetWriter(path, schema, write_page_index=True, **options) as writer:
        for start, stop in batches(_photo_bytes(rows), BATCH_BYTES, BATCH_ROWS):
            table = rows.data.table.slice(start, stop - start)
            for name in photos:
                column = _without_folders(table.column(name))
                table = table.set_column(table.column_names.index(name), name, column)
            writer.write_table(table.cast(schema))


def _without_folders(photos: pa.ChunkedArray) -> pa.StructArray:
    """The photos, with each path reduced to its file name."""
    paths = pc.struct_field(photos, "path").to_pylist()
    names = [path and re.split(r"[/\\]", path)[-1] for path in paths]
    column = photos.combine_chunks()
    return pa.StructArray.from_arrays(
        [column.field("bytes"), pa.array(names, pa.string())], names=["bytes", "path"], mask=column.is_null()
    )


def _uploaded(api: HfApi, repo_id: str, data: DatasetDict, stage: Path) -> Iterator[CommitOperationAdd]:
    """Write each shard in `stage`, upload it, remove it, and yield it for the commit that will add it."""
    with tqdm(total=sum(map(len, data.values())), desc="pushing", unit="photo") as bar:
        for split in SPLITS:
            cuts = list(batches(_photo_bytes(data[split]), SHARD_BYTES))
            for number, (start, stop) in enumerate(cuts):
                path = stage / f"{split}-{number:05d}-of-{len(cuts):05d}.parquet"
                write_shard(data[split].select(range(start, stop)), path)
                shard = CommitOperationAdd(f"data/{path.name}", path)
                api.preupload_lfs_files(repo_id, [shard], repo_type="dataset")
                if shard.path_or_fileobj == b"":  # a small file is uploaded with the commit and stays until then
                    path.unlink()
                bar.update(stop - start)
                yield shard


def _repository(api: HfApi, repo_id: str, private: bool) -> tuple[str, set[str]]:
    """The repository's commit and files. Creates it if it does not exist; refuses one with other content."""
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        # Without --private the owner's default on the Hub applies.
        api.create_repo(repo_id, repo_type="dataset", private=private or None)
        info = api.dataset_info(repo_id)
    check_private(repo_id, "the data set", asked=private, found=info.private)
    files = {file.rfilename for file in info.siblings or []}
    if files - {".gitattributes", "README.md"} and not ("splits.json" in files and _is_ours(api, repo_id, info.sha)):
        raise UserError(
            f"push {repo_id}: the repository holds another data set (no splits.json of natix_hf): choose another "
            "name, or delete it on the Hub first"
        )
    return info.sha, files


def _is_ours(api: HfApi, repo_id: str, revision: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repo_id, "splits.json", repo_type="dataset", revision=revision, local_dir=folder)
        try:
            document = json.loads(Path(path).read_bytes())
        except ValueError:
            return False
    return isinstance(document, Mapping) and {"seal", "fingerprints", "ids"} <= set(document)
