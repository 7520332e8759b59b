"""Builds the card of a data set with four splits from its certificate (`splits.json`) and its columns.

It never decodes the photos. A card is public: it contains no paths, and only counts of groups and rows.
"""

from __future__ import annotations

from collections import Counter

from datasets import DatasetDict, Features, Image
from datasets.info import DatasetInfo, DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.split_certificate import LabelConflict, PriorShift, SplitCertificate
from natix_hf.hub.card_text import cell, template, title
from natix_hf.hub.cards import USES
from natix_hf.hub.licences import LICENCE_COLUMNS, licence_front, licence_lines, licence_rows

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_REASONS = 8  # most reasons listed separately; the others are added up


def dataset_card(certificate: SplitCertificate, data: DatasetDict, repo_id: str) -> str:
    """The text of `README.md`.

    Args:
        data: the four splits that the certificate describes.
    """
    licences = _licences(data)
    card = DatasetCard.from_template(
        _card_data(certificate, data, licences),
        template_str=template("dataset_card.md.jinja"),
        repo_id=repo_id,
        title=title(certificate.label_names),
        certificate=certificate,
        cell=cell,
        classes=[cell(name) for name in certificate.label_names],
        splits=[_split_row(certificate, split) for split in SPLITS],
        how_lines=_how_lines(certificate),
        conflict_lines=_conflict_lines(certificate.conflicts),
        shift=_shift_text(certificate.prior_shift),
        left_out=_left_out(certificate),
        licence_lines=licence_lines(licences),
        licences=licence_rows(licences),
    )
    return str(card).rstrip("\n") + "\n"


def hub_features(features: Features) -> Features:
    """The features with decoding turned on for image columns, as users of the data set get them."""
    return Features({name: Image() if isinstance(kind, Image) else kind for name, kind in features.items()})


def _card_data(certificate: SplitCertificate, data: DatasetDict, licences: Counter | None) -> DatasetCardData:
    """The front matter, with `configs` and `dataset_info` in the form that `datasets` writes."""
    total = sum(certificate.sizes.values())
    front = DatasetCardData(
        pretty_name=title(certificate.label_names),
        license=licence_front(licences),
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "n>10M")],
        tags=["natix_hf", "street-photos", "grouped-splits"],
    )
    splits = SplitDict()
    for split in SPLITS:
        splits.add(SplitInfo(name=split, num_bytes=data[split].data.nbytes, num_examples=len(data[split])))
    info = DatasetInfo(
        features=hub_features(data["train"].features),
        splits=splits,
        dataset_size=sum(split.num_bytes for split in splits.values()),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(front)
    files = [{"split": split, "path": f"data/{split}-*"} for split in SPLITS]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(front)
    return front


def _licences(data: DatasetDict) -> Counter | None:
    """Licence -> number of rows, with None for rows without a licence. None if there is no licence column."""
    column = next((name for name in data["train"].column_names if name.lower() in LICENCE_COLUMNS), None)
    if column is None:
        return None
    values = (value for split in SPLITS for value in data[split][column][:])
    return Counter(None if value is None or not str(value).strip() else str(value).strip() for value in values)


def _split_row(certificate: SplitCertificate, split: str) -> dict[str, str | int | list[int]]:
    ratio = certificate.ratios and certificate.ratios[SPLITS.index(split)]
    return {
        "name": split,
        "use": USES[split],
        "photos": certificate.sizes[split],
        "groups": certificate.groups[split],
        "wanted": f"{ratio:.1%}" if ratio else "not set",
        "reached": f"{certificate.reached[split]:.1%}",
        "counts": [certificate.class_counts[split][name] for name in certificate.label_names],
    }


def _how_lines(certificate: SplitCertificate) -> list[str]:
    """How the rows were divided into splits, one sentence per fact."""
    rules, largest = certificate.rules, certificate.largest_group
    if certificate.ratios is None:
        lines = ["The source already had these four splits. They were kept unchanged and checked."]
    else:
        lines = [
            "Whole groups were assigned to splits, stratified by class and as close to the requested shares as whole "
            f"groups allow (seed {certificate.seed}). The order of the rows does not change the splits."
        ]
    if certificate.strata:
        lines.append(f"Also stratified by: {', '.join(f'`{name}`' for name in certificate.strata)}.")
    for column, values in certificate.hold_out.items():
        lines.append(f"Held out: rows whose `{column}` is {_listed(values)} are only in `val_test`.")
    tied = [f"have the same `{column}`" for column in rules.group_columns]
    if rules.metres is not None:
        in_time = "" if rules.seconds is None else f" and {rules.seconds:g} s of each other (if both times are known)"
        tied.append(f"were taken within {rules.metres:g} m{in_time}")
    tied.append("have byte-identical photos")
    if rules.near_duplicates:
        tied.append("show the same decoded photo or an altered copy of it (verified on pixels)")
    lines.append(
        f"Two rows are tied if they {'; or '.join(tied)}. Rows that are tied directly or indirectly form a group."
    )
    if not rules.near_duplicates:
        lines.append("Altered copies of photos were not searched for.")
    lines.append(f"The largest group has {largest.rows} photos ({largest.share:.1%} of all).")
    return lines


def _listed(values: list[str]) -> str:
    return " or ".join(f"`{cell(value)}`" for value in values)


def _conflict_lines(conflicts: list[LabelConflict]) -> list[str]:
    if not conflicts:
        return ["No photo has copies with different labels."]
    return [
        f"Photos that occur more than once with different labels: {len(conflicts)}, in "
        f"{sum(len(conflict.ids) for conflict in conflicts)} rows. For each of them at least one label is wrong. They "
        "are listed in `splits.json` and shown in `conflicts.png`."
    ]


def _shift_text(shift: PriorShift) -> str:
    verdict = "differ by more than chance" if shift.p < 0.05 else "do not differ by more than chance"
    return (
        f"The class shares of the splits {verdict} (chi-squared {shift.chi2:.2f}, {shift.dof} "
        f"degrees of freedom, p = {shift.p:.3g})."
    )


def _left_out(certificate: SplitCertificate) -> list[tuple[str, int]]:
    """`(reason, rows)` of the rows that are in no split, the most common reason first."""
    kinds = (("broken", "unreadable"), ("dropped", "left out"), ("set_aside", "set aside"))
    counts = Counter(f"{kind_text}: {row.reason}" for kind, kind_text in kinds for row in getattr(certificate, kind))
    common = [(cell(reason), count) for reason, count in counts.most_common(_REASONS)]
    remaining = counts.total() - sum(count for _, count in common)
    return [*common, ("other reasons", remaining)] if remaining else common
