"""The Hub's rules for the front matter of a model card and for evaluation results, as far as we use them.

Sources in hub-docs: modelcard.md, docs/hub/model-cards.md, docs/hub/repositories-licenses.md, eval_results.yaml. We
add one rule: every figure has its interval and its number of photos and groups.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from natix_hf.documents.document import Part
from natix_hf.documents.figures import Level, Some

# fmt: off
LICENCES = (
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-", "by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0",
    "odc-by", "odbl", "openmdw-1.0", "openmdw-1.1", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa",
    "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-", "license", "fair-noncommercial-research-license",
    "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other",
)
# fmt: on


def _known(licence: str) -> str:
    if licence not in LICENCES:
        raise ValueError("not a licence that the Hub knows")
    return licence


def _distinct(words: list[str]) -> list[str]:
    if len(set(words)) != len(words):
        raise ValueError("a word twice")
    return words


HubId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")]  # owner/name
Word = Annotated[str, Field(min_length=1)]


class Task(Part):
    type: Literal["image-classification"]
    name: str | None = None


class ResultData(Part):
    type: Word
    name: Word
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    args: dict[str, Any] | None = None


class WhatAFigureRestsOn(Part):
    model_config = ConfigDict(extra="allow")

    photos: Some
    groups: Some
    level: Level
    low: float
    high: float


class ResultMetric(Part):
    type: Word
    value: float
    name: str | None = None
    config: str | None = None
    args: WhatAFigureRestsOn
    verifyToken: str | None = None


class ResultSource(Part):
    url: Annotated[str, Field(pattern=r"^https://")]
    name: str | None = None


class Result(Part):
    task: Task
    dataset: ResultData
    metrics: Annotated[list[ResultMetric], Field(min_length=1)]
    source: ResultSource | None = None


class ModelIndexEntry(Part):
    name: Word
    results: Annotated[list[Result], Field(min_length=1)]


class CardMetadata(Part):
    """The front matter of a model card."""

    language: str | list[str] | None = None
    license: Annotated[str, AfterValidator(_known)]
    license_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")] | None = None
    license_link: Annotated[str, Field(pattern=r"^(LICENSE|LICENSE\.md|https://\S+)$")] | None = None
    library_name: Literal["transformers", "peft", "onnx"]
    tags: Annotated[list[Word], AfterValidator(_distinct)]
    datasets: Annotated[list[HubId], Field(min_length=1)] | None = None
    metrics: list[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]] | None = None
    base_model: HubId | Annotated[list[HubId], Field(min_length=1)] | None = None
    base_model_relation: Literal["adapter", "merge", "quantized", "finetune"] | None = None
    new_version: HubId | None = None
    pipeline_tag: Literal["image-classification"]
    model_index: Annotated[list[ModelIndexEntry] | None, Field(alias="model-index", min_length=1)] = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        named = self.license_name is not None, self.license_link is not None
        if self.license == "other" and not all(named):
            raise ValueError("license: other needs license_name and license_link")
        if self.license != "other" and any(named):
            raise ValueError(f"license: {self.license} has a name and a text of its own")
        if self.base_model_relation and not self.base_model:
            raise ValueError("base_model_relation without base_model")
        return self


class EvaluatedData(Part):
    id: HubId
    task_id: Word
    revision: str | None = None


class EvaluationSource(Part):
    url: Annotated[str, Field(pattern=r"^https?://")]
    name: str | None = None
    user: str | None = None
    org: str | None = None


class EvaluationResult(Part):
    """An entry of `.eval_results/*.yaml`."""

    dataset: EvaluatedData
    value: float
    verifyToken: str | None = None
    date: (
        Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$")]
        | None
    ) = None
    source: EvaluationSource | None = None
    notes: Annotated[str, Field(pattern=r"photos.*groups.*interval")]
