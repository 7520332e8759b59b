"""The front matter against the Hub's own classes and its documented rules; a broken card is refused."""

import copy
import math

import numpy as np
import pytest
import yaml
from finished_run import card_of, write_finished_run
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from natix_hf.documents.figures import Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.hub_metadata import CardMetadata
from natix_hf.errors import UserError
from natix_hf.hub.base_licence import base_licence
from natix_hf.hub.card_metadata import metadata
from natix_hf.modeling.exports import FORMS
from natix_hf.report.summary import metrics_document


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_finished_run(tmp_path_factory.mktemp("metadata") / "run")


@pytest.fixture(scope="module")
def front(run):
    """The front matter as the Hub reads it: YAML between the first two lines of dashes."""
    return yaml.safe_load(card_of(run, "me/street", form="stock").split("---\n")[1])


@pytest.mark.parametrize("form", ["run", *FORMS])
def test_the_hub_s_library_reads_the_card_and_gives_the_same_back(run, form):
    data = ModelCard(card_of(run, "me/street", form=form)).data
    assert isinstance(data, ModelCardData)
    assert len(data.eval_results) == 7
    assert all(isinstance(result, EvalResult) and math.isfinite(result.metric_value) for result in data.eval_results)
    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert (name, results) == (data.model_name, data.eval_results)
    CardMetadata.check(data.to_dict(), "model_card_metadata")
    library, relation = {"adapter": ("peft", "adapter"), "onnx": ("onnx", "finetune")}.get(
        form, ("transformers", "finetune")
    )
    assert (data.library_name, data.base_model_relation) == (library, relation)


def result(card):
    return card["model-index"][0]["results"][0]


BROKEN = {
    "no licence": lambda card: card.pop("license"),
    "a licence that the Hub does not know": lambda card: card.update(license="dinov3"),
    "another licence without a name": lambda card: card.pop("license_name"),
    "another licence without a link": lambda card: card.pop("license_link"),
    "a link to nowhere": lambda card: card.update(license_link="see the web"),
    "a name beside a licence that has one": lambda card: card.update(license="apache-2.0"),
    "a base that is a path": lambda card: card.update(base_model="../runs/base"),
    "a relation without a base": lambda card: card.pop("base_model"),
    "a relation that the Hub does not know": lambda card: card.update(base_model_relation="child"),
    "a data set that is a path": lambda card: card.update(datasets=["/home/me/photos"]),
    "a data set outside a list": lambda card: card.update(datasets="me/photos"),
    "another task": lambda card: card.update(pipeline_tag="image-classifcation"),
    "a library that the Hub does not know": lambda card: card.update(library_name="natix_hf"),
    "no tags": lambda card: card.pop("tags"),
    "a tag twice": lambda card: card["tags"].append(card["tags"][0]),
    "a misspelt key": lambda card: card.update(licence="mit"),
    "a model index without a name": lambda card: card["model-index"][0].pop("name"),
    "results of no task": lambda card: result(card).pop("task"),
    "results without a data set's name": lambda card: result(card)["dataset"].pop("name"),
    "results without a data set's type": lambda card: result(card)["dataset"].pop("type"),
    "no figures": lambda card: result(card).update(metrics=[]),
    "a figure without a type": lambda card: result(card)["metrics"][0].pop("type"),
    "a figure without a value": lambda card: result(card)["metrics"][0].pop("value"),
    "a figure as text": lambda card: result(card)["metrics"][0].update(value="0.97"),
    "a figure without an interval": lambda card: result(card)["metrics"][0]["args"].pop("low"),
    "a figure without its photos": lambda card: result(card)["metrics"][0]["args"].pop("photos"),
    "a figure alone": lambda card: result(card)["metrics"][0].pop("args"),
    "a source without an address": lambda card: result(card).update(source={"name": "me"}),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN)
def test_a_broken_card_is_refused(front, breaks):
    broken = copy.deepcopy(front)
    CardMetadata.check(broken, "model_card_metadata")
    breaks(broken)
    with pytest.raises(UserError, match="model_card_metadata"):
        CardMetadata.check(broken, "model_card_metadata")


def figures() -> FinalFigures:
    labels = np.arange(40) % 2
    return metrics_document(np.eye(2)[labels], np.eye(2)[labels], labels, None, label_names=["a", "b"], **ONCE)


ONCE = {"times_read_before": 0, "n_boot": 9}


def test_a_card_that_the_hub_would_refuse_is_not_written():
    metrics = figures().model_copy(update={"n": 0})
    with pytest.raises(UserError, match="photos"):
        metadata(classes=["a", "b"], base=None, data=None, metrics=metrics, licence={"license": "mit"})


def test_figures_that_are_not_defined_are_left_out():
    undefined = Interval(value=None, low=None, high=None)
    metrics = figures().model_copy(update={"metrics": {"auroc": undefined}})
    front = metadata(classes=["a", "b"], base=None, data=None, metrics=metrics, licence={"license": "mit"})
    assert "model-index" not in front.to_dict()


@pytest.mark.parametrize(
    ("base", "licence", "told"),
    [
        ("builtin:demo-backbone", "apache-2.0", "demonstration backbone"),
        ("facebook/dinov3-vith16plus-pretrain-lvd1689m", "other", "DINOv3 License"),
        ("timm/vit_small_patch16_dinov3.lvd1689m", "other", "DINOv3 License"),
        ("somebody/else", "unknown", "licence is not known"),
        (None, "unknown", "licence is not known"),
    ],
)
def test_the_licence_of_the_base_is_inherited_and_named(base, licence, told):
    found = base_licence(base)
    assert found.front["license"] == licence
    assert (found.front.get("license_name") == "dinov3-license") == (licence == "other")
    assert told in found.text
    assert found.known == (licence != "unknown")


@pytest.mark.parametrize(
    ("card", "front"),
    [
        ("---\nlicense: mit\n---\n# A base", {"license": "mit"}),
        ("---\nlicense: mine\n---\n", {"license": "unknown"}),
        ("---\nlicense: other\n---\n", {"license": "unknown"}),
        ("---\nlicense: [mit]\n---\n", {"license": "unknown"}),
        ("---\nlicense: :\n - x\n---\n", {"license": "unknown"}),
        ("no front matter", {"license": "unknown"}),
    ],
)
def test_a_local_base_has_the_licence_that_its_card_names(tmp_path, card, front):
    (tmp_path / "README.md").write_text(card)
    assert base_licence(str(tmp_path)).front == front
