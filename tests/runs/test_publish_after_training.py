"""`push_to_hub` in a recipe: what it may stand beside, and what is refused before training."""

from __future__ import annotations

import pytest
import yaml

from natix_hf.errors import UserError
from natix_hf.recipe.yaml_and_command_line import parse, resolved
from natix_hf.runs import publish_after_training as publication
from natix_hf.runs.publish_after_training import check_classes, planned, publish_finished

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture
def recipe(tmp_path):
    """The function that parses a recipe which publishes, with further words."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model_name_or_path: a/model\ndataset_name: a/photos\noutput_dir: runs/x\nuse_cpu: true\n"
        "push_to_hub: true\nhub_model_id: me/x\nhub_private_repo: true\n"
    )
    return lambda *words: parse([str(path), *words])


@pytest.fixture
def places(monkeypatch):
    """What the Hub would be asked about."""
    asked = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(publication, "find_place", asked.append)
    return asked


def asked_for(recipe):
    return planned(recipe.hub, recipe.data.label_names, saves=recipe.training.should_save)


def test_what_is_published_is_what_the_recipe_says(recipe, places):
    asked = asked_for(recipe("--model_version", "1.2.0", "--hub_format", "merged"))
    assert (asked.repo_id, asked.form, asked.private, asked.version) == ("me/x", "merged", True, "1.2.0")
    assert places == [asked]
    assert asked_for(recipe("--push_to_hub", "false")) is None


def test_only_the_main_process_publishes(recipe, places):
    other = recipe()
    other.training.save_on_each_node = True
    other.training.distributed_state.local_process_index, kept = (
        1,
        other.training.distributed_state.local_process_index,
    )
    try:
        assert asked_for(other) is None
    finally:
        other.training.distributed_state.local_process_index = kept
    assert not places


def test_the_trainer_never_uploads(recipe):
    training = recipe().training
    assert not training.push_to_hub
    assert training.hub_model_id is None
    assert training.hub_private_repo is None
    with pytest.raises(UserError, match="hub_token cannot be set: tokens come from the environment"):
        recipe("--hub_token", "hf_secret")


def test_recipe_yaml_says_where_the_run_went_and_nothing_where_it_went_nowhere(recipe):
    told = yaml.safe_load(resolved(recipe("--hotkey", ALICE)))
    assert {key: told[key] for key in ("push_to_hub", "hub_model_id", "model_version", "hotkey")} == {
        "push_to_hub": True, "hub_model_id": "me/x", "model_version": "1.0.0", "hotkey": ALICE,
    }  # fmt: skip
    silent = yaml.safe_load(resolved(recipe("--push_to_hub", "false")))
    assert not {"push_to_hub", "hub_model_id", "hub_format", "model_version", "hotkey"} & set(silent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hub_model_id", ""], "push_to_hub: no repository given: add hub_model_id: owner/name"),
        (["--sweep", "true"], "push_to_hub: a sweep makes no model to publish: add --push_to_hub false"),
        (["--find_lr", "true"], "push_to_hub: a range test makes no model to publish"),
        (["--hold_out_each", "city"], "push_to_hub: hold_out_each makes several runs"),
        (["--hub_format", "adapter", "--method", "probe"], "hub_format: adapter needs method lora, found probe"),
        (["--hub_format", "stock", "--head", "mlp"], "hub_format: stock cannot hold head: mlp"),
        (
            ["--hotkey", ALICE, "--pooling", "cls_mean"],
            "hotkey: StreetVision's stock model cannot hold pooling: cls_m",
        ),
    ],
)
def test_what_cannot_be_published_is_refused_when_the_recipe_is_read(recipe, words, said):
    with pytest.raises(UserError) as error:
        recipe(*words)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hub_model_id", "streets"], "owner/name, such as me/roadwork-dinov3"),
        (["--model_version", "1"], "expected X.Y.Z"),
        (["--hotkey", ALICE[:-1] + "Z"], "wrong checksum"),
        (["--hotkey", ALICE, "--hub_format", "merged"], "only stock models"),
        (["--hotkey", ALICE, "--label_names", "no", "yes"], "reads the class 'Roadwork'"),
    ],
)
def test_name_version_and_hotkey_are_checked_before_the_hub_is_asked(recipe, places, words, said):
    with pytest.raises(UserError) as error:
        asked_for(recipe(*words))
    assert said in str(error.value)
    assert not places


def test_a_missing_token_and_classes_of_another_name_stop_before_training(recipe, places, monkeypatch, tmp_path):
    asked = asked_for(recipe("--hotkey", ALICE))
    check_classes(asked, ["None", "Roadwork"])
    with pytest.raises(UserError, match="reads the class 'Roadwork'"):
        check_classes(asked, ["cat", "dog"])
    check_classes(asked_for(recipe()), ["cat", "dog"])
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="the Hub requires a token"):
        asked_for(recipe())


def test_a_publication_that_is_refused_at_the_end_says_that_the_run_is_there(recipe, places, monkeypatch):
    asked = asked_for(recipe("--model_version", "1.2.0"))

    def refuse(*_):
        raise UserError("proof: differs")

    monkeypatch.setattr(publication, "publish", refuse)
    with pytest.raises(UserError) as error:
        publish_finished("runs/x", asked)
    assert str(error.value) == (
        "the run in runs/x is finished but was not published: proof: differs: to publish it later, run "
        "python -m natix_hf.publish runs/x me/x --model_version 1.2.0"
    )
    publish_finished("runs/x", None)
