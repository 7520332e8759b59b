"""Keeps private names out of published files: names of photos, groups and files, local paths and places.

Figures are safe. Texts that come from the user's data are not: metadata values and names of sources. Each such text is
checked and replaced by `withheld` if it names a photo or a place. Before an upload, all text files are checked once
more for names of photos and groups.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from natix_hf.documents.reward import Reward
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.split_certificate import HowSplit, LargestGroupInNumbers, SplitCertificate, SplitSummary
from natix_hf.errors import UserError
from natix_hf.files import read_json

WITHHELD = "withheld"
READ = (".json", ".md", ".yaml", ".yml", ".html", ".py")  # text files that are checked before an upload
LONG = 8  # characters; shorter names can occur in a text by chance

_SEPARATORS = re.compile(r"[\s\"'<>()\[\]{},;|`=]+")
_FILE = re.compile(r"\.(?:jpe?g|png|webp|bmp|tiff?|gif|heic|avif)\b", re.IGNORECASE)
_PATH = re.compile(r"(?:^|[\s'\"(])(?:~?/|[A-Za-z]:\\|\\\\)\w")
_NUMBER = r"[+-]?\d{1,3}(?:\.\d+)?\s*°?\s*[NSEW]?"
# A value that is a pair of numbers, or a pair with at least four decimals (about 10 m) anywhere in a text.
_PLACE = re.compile(
    rf"^[^\d+-]*{_NUMBER}\s*[,;/ ]\s*{_NUMBER}[^\w]*$|[+-]?\d{{1,3}}\.\d{{4,}}\s*[,;/ ]\s*[+-]?\d{{1,3}}\.\d{{4,}}"
)
_COUNTER = re.compile(r"\d{1,4}")  # too short to identify a photo, and equal to many harmless numbers


@dataclass(frozen=True)
class Names:
    """The names of a run's photos and groups, except those that are also names of classes, which are public."""

    hidden: frozenset[str]

    def hides(self, text: str) -> bool:
        """Whether a text names a photo, a group, a photo's file, a local path or a place."""
        words = [text, *_SEPARATORS.split(text)]
        named = any(word in self.hidden and not _COUNTER.fullmatch(word) for word in words)
        return named or any(pattern.search(text) for pattern in (_FILE, _PATH, _PLACE))

    def shown(self, text: str) -> str:
        """The text, or `withheld` if it must be hidden."""
        return WITHHELD if self.hides(text) else text


def names_of(run: Path, splits: SplitCertificate) -> Names:
    """All names of photos and groups in the certificate and in `predictions/` of a run."""
    private_names = {row for ids in splits.ids.values() for row in ids}
    private_names.update(row.id for row in (*splits.broken, *splits.dropped, *splits.set_aside))
    private_names.add(splits.largest_group.name)
    for path in sorted((run / "predictions").rglob("*.parquet")):
        table = pq.read_table(path, columns=["id", "group"])
        for name in ("id", "group"):
            private_names.update(map(str, table[name].unique().to_pylist()))
    config = run / "config.json"
    classes = read_json(config)["id2label"].values() if config.is_file() else splits.label_names
    return Names(frozenset(private_names - set(classes) - {"", "None"}))


def public(documents: RunDocuments, names: Names) -> RunDocuments:
    """The documents of a run with private texts withheld in slices, rewards and calibration. Figures do not change."""
    slices, reward, calibration = documents.slices, documents.reward, documents.calibration
    if slices is not None:
        rows = [row.model_copy(update={"value": names.shown(row.value)}) for row in slices.slices]
        slices = slices.model_copy(update={"note": names.shown(slices.note), "slices": rows})
    if reward is not None:
        reward = shown_reward(reward, names)
    if calibration is not None:
        calibration = calibration.model_copy(update={"notes": [names.shown(note) for note in calibration.notes]})
    return replace(documents, slices=slices, reward=reward, calibration=calibration)


def shown_reward(reward: Reward, names: Names) -> Reward:
    """Rewards with private names of the field and of sources withheld."""
    field = reward.field.model_copy(update={"name": names.shown(reward.field.name)})
    entries = [
        entry.model_copy(update={"source": entry.source and names.shown(entry.source)}) for entry in reward.entries
    ]
    return reward.model_copy(update={"field": field, "entries": entries})


def splits_summary(splits: SplitCertificate, names: Names) -> SplitSummary:
    """A certificate without names of photos and groups; seal and fingerprints identify the original."""
    sources = Counter()
    for source, rows in splits.sources.items():
        sources[names.shown(source)] += rows
    fields = {key: getattr(splits, key) for key in HowSplit.model_fields}
    fields |= {
        "sources": dict(sources),
        "hold_out": {
            column: sorted({names.shown(value) for value in values}) for column, values in splits.hold_out.items()
        },
        "largest_group": LargestGroupInNumbers(rows=splits.largest_group.rows, share=splits.largest_group.share),
        "left_out": {kind: len(getattr(splits, kind)) for kind in ("conflicts", "broken", "dropped", "set_aside")},
    }
    return SplitSummary(**fields)


def check_public(folder: Path, names: Names) -> None:
    """Read all text files in a folder and raise `UserError` if one of them names a photo or a group."""
    by_word: dict[str, list[str]] = {}
    for name in names.hidden:
        if len(name) >= LONG and not name.isdigit():
            by_word.setdefault(max(_SEPARATORS.split(name), key=len), []).append(name)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in READ and path.is_file()):
        text = html.unescape(path.read_text(encoding="utf-8"))
        for word in by_word.keys() & set(_SEPARATORS.split(text)):
            if any(name in text for name in by_word[word]):
                raise UserError(
                    f"{path.relative_to(folder)}: names a photo or a group ({word}); nothing was pushed: rename it, "
                    "or add --include_photos, which publishes such names"
                )
