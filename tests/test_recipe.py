"""A recipe file and a command line: what they may say, who wins, and what a mistake gets to hear."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from natix_hf.errors import UserError
from natix_hf.recipe.options import REFUSED, Recipe, topics_of
from natix_hf.recipe.pretrain_recipe import PretrainRecipe
from natix_hf.recipe.transformers_files import training_fields
from natix_hf.recipe.yaml_and_command_line import (
    TRAINING_TOPICS,
    RecipeParser,
    help_text,
    parse,
    resolved,
    resolved_pretraining,
)
from natix_hf.training.training_arguments import NatixTrainingArguments
from natix_hf.training.training_options import SCORES, TrainingOptions

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = sorted((REPOSITORY / "recipes").glob("*.yaml"))


@pytest.fixture
def write(tmp_path: Path):
    """A function that writes a recipe: the three keys that each needs, and the lines given."""

    def written(*lines: str, needed: bool = True) -> str:
        path = tmp_path / "recipe.yaml"
        head = ["model_name_or_path: a/model", "dataset_name: a/photos", "output_dir: runs/x"] if needed else []
        path.write_text("\n".join([*head, *lines, ""]))
        return str(path)

    return written


@pytest.fixture
def refusal():
    """A function that parses and returns the one line that it is refused with."""

    def line(*argv: str) -> str:
        with pytest.raises(UserError) as caught:
            parse(list(argv))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


def values(recipe) -> dict:
    """All options of a recipe by name."""
    topics = [getattr(recipe, part.name) for part in dataclasses.fields(recipe)]
    return {field.name: getattr(topic, field.name) for topic in topics for field in dataclasses.fields(topic)}


# -- values -----------------------------------------------------------------------------------------------------------


def test_numbers_that_yaml_takes_for_text_become_numbers(write):
    recipe = parse([write("learning_rate: 1e-4", "lora_r: 4", "weight_decay: 1E-2", "num_train_epochs: 2")])
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.weight_decay == 0.01
    assert recipe.lora.lora_r == 4
    assert isinstance(recipe.lora.lora_r, int)
    assert recipe.training.num_train_epochs == 2.0


def test_the_command_line_wins_in_every_spelling(write):
    path = write("learning_rate: 1e-4", "lora_r: 4", "ema: true", "label_names: [a, b]")
    for words in (["--learning_rate", "5e-4"], ["--learning_rate=5e-4"], ["--learning-rate", "5e-4"]):
        recipe = parse([path, *words])
        assert recipe.training.learning_rate == 5e-4
        assert recipe.lora.lora_r == 4
    assert parse([path, "--label_names", "c", "d", "e"]).data.label_names == ["c", "d", "e"]


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("false", False), ("no", False), ("1", True)]
)
def test_booleans_are_read_from_file_and_command_line(write, text, value):
    assert parse([write(f"ema: {text}")]).training.ema is value
    assert parse([write(), "--ema", text]).training.ema is value
    assert parse([write(), f"--use_rslora={text}"]).lora.use_rslora is value


def test_a_boolean_alone_switches_on_and_no_switches_off(write):
    recipe = parse([write(), "--overwrite_output_dir", "--no_ema"])
    assert recipe.training.overwrite_output_dir is True
    assert recipe.training.ema is False


def test_lists_come_as_yaml_lists_or_as_several_words(write):
    recipe = parse([write("split_ratios: [0.7, 0.1, 0.1, 0.1]", "lora_target_modules: q_proj")])
    assert recipe.data.split_ratios == [0.7, 0.1, 0.1, 0.1]
    assert recipe.lora.lora_target_modules == ["q_proj"]
    recipe = parse([write(), "--lora_target_modules", "q_proj", "v_proj", "--report_to", "tensorboard", "trackio"])
    assert recipe.lora.lora_target_modules == ["q_proj", "v_proj"]
    assert recipe.training.report_to == ["tensorboard", "trackio"]
    assert parse([write()]).training.report_to == []


def test_a_photo_s_size_is_a_number_or_height_and_width_and_comes_back_from_recipe_yaml(write, tmp_path):
    for lines, words, size in (
        ("image_size: [256, 448]", [], [256, 448]),
        ("image_size: 224", [], 224),
        ("image_size: [256, 448]", ["--image_size", "384", "672"], [384, 672]),
        ("image_size: 224", ["--image_size", "256", "448"], [256, 448]),
        ("image_size: [256, 448]", ["--image_size", "224"], 224),
        ("image_size: [224, 224]", [], 224),
        ("image_size: [256, 448]", ["--image_size", "null"], 224),
    ):
        recipe = parse([write(lines), *words])
        assert recipe.data.image_size == size
        text = resolved(recipe)
        assert f"image_size: {size}\n" in text
        (tmp_path / "again.yaml").write_text(text)
        again = parse([str(tmp_path / "again.yaml")])
        assert again.data.image_size == size


def test_null_is_the_default(write):
    recipe = parse([write("group_column: null", "lora_r: ~", "label_names:")])
    assert recipe.data.group_column is None
    assert recipe.lora.lora_r == 16
    assert recipe.data.label_names is None


def test_a_mapping_is_handed_on(write):
    recipe = parse([write("lr_scheduler_type: cosine_with_min_lr", "lr_scheduler_kwargs: {min_lr: 0.00001}")])
    assert recipe.training.lr_scheduler_kwargs == {"min_lr": 1e-5}
    recipe = parse([write("lr_scheduler_type: cosine_with_min_lr", "lr_scheduler_kwargs: {min_lr: 1e-6}")])
    assert recipe.training.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_class_names_that_look_like_something_else_stay_text(write):
    assert parse([write("label_names: [None, Roadwork]")]).data.label_names == ["None", "Roadwork"]
    assert parse([write("label_names: [no, yes]")]).data.label_names == ["no", "yes"]
    assert parse([write("label_names: [off, 2026-01-01, 7]")]).data.label_names == ["off", "2026-01-01", "7"]
    assert parse([write(), "--label_names", "None", "Roadwork"]).data.label_names == ["None", "Roadwork"]
    assert parse([write("positive_label: None")]).data.positive_label == "None"
    assert parse([write(), "--positive_label", "None"]).data.positive_label == "None"


def test_numbers_that_are_names_keep_their_form(write):
    assert parse([write("dataset_config: 0012", "model_revision: 1234e5")]).data.dataset_config == "0012"
    assert parse([write("label_names: [01, 1_000]")]).data.label_names == ["01", "1_000"]


def test_a_value_may_hold_blanks_equals_signs_and_dashes(write):
    recipe = parse([write("run_name: a - b = c", "group_column: --odd name"), "--dataset_name=my photos/2026"])
    assert recipe.training.run_name == "a - b = c"
    assert recipe.data.group_column == ["--odd name"]
    assert recipe.data.dataset_name == "my photos/2026"


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_the_nearest_name(write, refusal):
    path = write("learning_rte: 1e-4")
    assert refusal(path) == f"recipe {path}: unknown key 'learning_rte'; did you mean 'learning_rate'?"
    assert refusal(write(), "--lora_rank", "3") == "command line: unknown key 'lora_rank'; did you mean 'lora_r'?"
    assert refusal(write(), "--learnin-rate=3").endswith("did you mean 'learning_rate'?")
    assert refusal(write(), "--zzz", "3").endswith("python -m natix_hf.train --help all lists all keys")


def test_a_key_written_twice_is_refused(write, refusal):
    path = write("lora_r: 4", "lora_alpha: 8", "lora_r: 6")
    assert refusal(path) == f"recipe {path}: key 'lora_r' appears twice, in lines 4 and 6: remove one"
    assert refusal(write(), "--lora_r", "4", "--lora-r=8") == "command line: --lora_r is given twice: remove one"
    assert "--ema is given twice" in refusal(write(), "--ema", "true", "--no_ema")


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_must_not_be_set_is_refused_with_the_reason(write, refusal, key):
    path = write(f"{key}: x")
    assert refusal(path) == f"recipe {path}: {key} cannot be set: {REFUSED[key]}"
    assert refusal(write(), f"--{key}", "x") == f"command line: {key} cannot be set: {REFUSED[key]}"


def test_no_recipe_or_one_that_is_not_there(write, refusal, tmp_path):
    assert "no recipe given: python -m natix_hf.train recipes/lora.yaml" in refusal()
    assert "no recipe given" in refusal("--lora_r", "4")
    assert refusal("not/here.yaml") == "recipe not/here.yaml: no such file, and no recipe of the package has this name"
    assert refusal(str(tmp_path)) == f"recipe {tmp_path}: no such file, and no recipe of the package has this name"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "1: 2\n", "a: [1\n", "a: 1\n b: 2\n", "\t- x"])
def test_a_file_that_is_no_flat_mapping_is_refused(tmp_path, refusal, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    assert refusal(str(path)).startswith(f"recipe {path}: ")


def test_a_file_that_is_no_text_is_refused(tmp_path, refusal):
    path = tmp_path / "odd.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    assert "not readable as YAML" in refusal(str(path))


def test_a_value_that_cannot_be_cast_is_named_with_its_source(write, refusal):
    path = write("lora_r: many")
    assert refusal(path).startswith(f"recipe {path}: argument --lora_r")
    assert "'many'" in refusal(path)
    assert refusal(write(), "--lora_r", "many").startswith("command line: argument --lora_r")
    assert "method" in refusal(write("method: adapter"))
    assert "got perhaps but expected one of yes/no" in refusal(write("ema: perhaps"))
    assert "'stray' does not belong to a key" in refusal(write(), "--lora_r", "4", "stray")
    assert "expected one argument" in refusal(write(), "--lora_r")


@pytest.mark.parametrize("key", ["model_name_or_path", "dataset_name", "output_dir"])
def test_a_key_that_every_run_needs_is_asked_for(write, refusal, key):
    lines = ["model_name_or_path: a/model", "dataset_name: a/photos", "output_dir: runs/x"]
    path = write(*(line for line in lines if not line.startswith(key)), needed=False)
    assert f"{key} is missing" in refusal(path)
    assert parse([path, f"--{key}", "here"])


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ema_decay: 1.5", "ema_decay"),
        ("ema_warmup_steps: 0", "ema_warmup_steps"),
        ("metric_for_best_model: f2", "metric_for_best_model"),
        ("lr_scheduler_type: zigzag", "zigzag"),
        ("optim: muonn", "did you mean muon"),
        ("eval_strategy: sometimes", "sometimes"),
        ("save_strategy: steps", "strategy"),
        ("fsdp: full_shard", "fsdp"),
    ],
)
def test_values_that_training_cannot_use_are_refused_before_it_begins(write, refusal, line, named):
    assert named in refusal(write(line))


def test_early_stopping_without_scores_is_refused(write, refusal):
    assert "eval_strategy" in refusal(write("eval_strategy: no", "early_stopping_patience: 2"))


def test_the_scores_that_may_choose_a_checkpoint_are_those_that_are_computed(write):
    from natix_hf.report.metrics import classification_metrics

    computed = classification_metrics([[0.2, 0.8], [0.9, 0.1]], [1, 0])
    assert set(SCORES) == {*computed, "loss"}
    for name in SCORES:
        training = parse([write(f"metric_for_best_model: {name}")]).training
        assert training.greater_is_better is (name not in ("log_loss", "ece", "loss"))


# -- back to a file ---------------------------------------------------------------------------------------------------

ONE_START = {"resume_from_checkpoint", "overwrite_output_dir"}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["label_names: [None, 'no', '7']", "positive_label: 'null'", "group_column: video_info.vid_id"],
        ["report_to: [tensorboard, trackio]", "lr_scheduler_type: cosine_with_restarts"],
        ["lr_scheduler_kwargs: {min_lr: 1.0e-6}", "lr_scheduler_type: cosine_with_min_lr", "adam_beta2: 0.98"],
        ["split_ratios: [0.7, 0.1, 0.1, 0.1]", "early_stopping_patience: 3", "ema: false", "max_grad_norm: 0"],
        ["eval_strategy: steps", "eval_steps: 5", "save_strategy: steps", "save_steps: 10", "learning_rate: 3e-7"],
        ["model_revision: 1e5", "lora_last_blocks: 3", "bf16: false", "use_cpu: true"],
    ],
)
def test_the_resolved_recipe_says_the_same_again(write, tmp_path, lines):
    first = parse([write(*lines)])
    copy = tmp_path / "resolved.yaml"
    copy.write_text(resolved(first))
    second = parse([str(copy)])
    assert values(second) == values(first)


def test_the_resolved_recipe_leaves_out_what_belongs_to_one_start(write):
    text = resolved(parse([write("overwrite_output_dir: true", "resume_from_checkpoint: true")]))
    assert not ONE_START & set(yaml.safe_load(text))


@pytest.mark.parametrize(("given", "kept"), [("photos", "{}/photos"), ("mine=photos", "mine={}/photos")])
def test_the_resolved_recipe_names_local_folders_from_any_working_directory(write, tmp_path, monkeypatch, given, kept):
    for name in ("photos", "backbone"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["--dataset_name", given, "--model_name_or_path", "./backbone", "--refit", "all", "--refit_from", "runs/x"]
    told = yaml.safe_load(resolved(parse([write(), *words])))
    assert told["dataset_name"] == kept.format(tmp_path)
    assert told["model_name_or_path"] == str(tmp_path / "backbone")
    assert told["refit_from"] == str(tmp_path / "runs" / "x")
    monkeypatch.chdir(tmp_path / "photos")
    words = ("--model_name_or_path", "photos/x", "--output_dir", "y")
    told = yaml.safe_load(resolved(parse([write("dataset_name: builtin:scenes", needed=False), *words])))
    assert told["dataset_name"] == "builtin:scenes"
    assert told["model_name_or_path"] == "photos/x"


def test_tokens_never_reach_the_resolved_recipe(write, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
    text = resolved(parse([write()]))
    assert "token" not in text
    assert "hf_not" not in text
    assert not any("token" in name for names in TRAINING_TOPICS.values() for name in names.split())


# -- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_parses_and_opens_with_the_command_that_runs_it(path):
    kind = PretrainRecipe if path.stem == "explora" else Recipe
    if kind is PretrainRecipe:
        pytest.importorskip("lightly")
    recipe = parse([str(path)], kind)
    assert recipe.training.output_dir == f"runs/{path.stem}"
    opening = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        opening.append(line)
    assert any(f"-m {kind.command} recipes/{path.name}" in line for line in opening)
    assert any(line.startswith("# Needs:") for line in opening)
    assert parse([path.stem], kind) == recipe
    assert parse([f"recipes/{path.name}"], kind) == recipe


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lora_r", "0", "at least 1"),
        ("lora_alpha", "-1", "at least 1"),
        ("lora_dropout", "1.5", "a number from 0 to below 1"),
    ],
)
def test_options_of_every_topic_are_held_to_their_bounds(write, refusal, key, value, expected):
    assert refusal(write(), f"--{key}", value) == f"{key}: expected {expected}, found {value}"


def test_help_lists_every_option_under_a_topic(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help", "all"])
    assert caught.value.code == 0
    text = "\n" + capsys.readouterr().out
    for options in topics_of(Recipe)[:-1]:
        assert f"\n{options._argument_group_name}:\n" in text
    for title in TRAINING_TOPICS:
        assert f"\n{title}:\n" in text
    for options in topics_of(Recipe):
        for field in dataclasses.fields(options):
            assert not field.init or f"--{field.name}" in text, field.name
    assert "--hub_token" not in text


def test_help_of_pretraining_lists_every_option_and_none_that_speaks_of_labels(capsys):
    with pytest.raises(SystemExit):
        parse(["--help", "all"], PretrainRecipe)
    text = capsys.readouterr().out
    for options in topics_of(PretrainRecipe):
        for field in dataclasses.fields(options):
            assert not field.init or f"--{field.name}" in text, field.name
    assert "python -m natix_hf.pretrain RECIPE" in help_text(["--help"], PretrainRecipe)
    for name in ("loss", "mixup_alpha", "sampling", "optim", "warm_start", "eval_steps", "lora_r", "augment"):
        assert f"--{name} " not in text, name


def test_a_recipe_of_pretraining_as_resolved_says_the_same_again(tmp_path):
    words = [
        "recipes/explora.yaml",
        "--pretrain_objective",
        "distill",
        "--dataset_name",
        str(tmp_path),
        "--use_cpu",
        "true",
    ]
    words += ["--unlabelled_name", str(tmp_path), f"more={tmp_path}", "--pretrain_lora_r", "8", "--max_steps", "7"]
    recipe = parse(words, PretrainRecipe)
    path = tmp_path / "recipe.yaml"
    path.write_text(resolved_pretraining(recipe))
    again = parse([str(path)], PretrainRecipe)
    assert again == recipe
    assert again.pretraining.pretrain_lora_r == 8
    assert again.training.max_steps == 7


@pytest.mark.parametrize("kind", [Recipe, PretrainRecipe])
def test_plain_help_shows_the_25_keys_that_people_use_on_a_screen_and_names_every_topic(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_text(["--help"], kind).splitlines()
    shown = [line.split()[0][2:] for line in lines if line.startswith("  --")]
    assert shown == " ".join(kind.common.values()).split()
    assert len(shown) == 25
    assert len(lines) <= 62
    assert max(map(len, lines)) <= 80
    rest = " ".join(lines[-5:])
    for options in topics_of(kind, early=True)[:-1]:
        assert options._argument_group_name in rest


def test_help_of_a_topic_shows_its_keys_alone_and_an_unknown_one_is_told_the_topics():
    text = help_text(["recipes/lora.yaml", "--help", "Loss"])
    assert "--focal_gamma" in text
    assert "--learning_rate" not in text
    with pytest.raises(UserError, match=r"^--help los: no such topic: expected all, model, .*, loss, .*$"):
        help_text(["--help", "los"])


def test_what_is_read_of_transformers_without_importing_it_is_what_it_declares():
    """Types that cannot be read count as text, and computed choices are left to the real parser."""
    real = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    read = {name: field for name, _, field in training_fields()}
    assert list(read) == list(real)
    for name, field in read.items():
        if name != "optim":  # whose default depends on torch's version, and ours wins
            assert field.default == real[name].default, name
        assert field.metadata.get("help") == real[name].metadata["help"], name


@pytest.mark.parametrize("kind", [Recipe, PretrainRecipe])
def test_the_parser_without_torch_takes_the_same_keys_and_numbers_as_the_real_one(kind):
    def told(early: bool) -> dict:
        def cast(action):
            return getattr(action.type, "__qualname__", action.type)

        actions = RecipeParser(kind, early=early)._actions
        return {tuple(one.option_strings): (one.dest, one.nargs, one.default, cast(one)) for one in actions}

    early, real = told(True), told(False)
    assert list(early) == list(real)
    different = {keys for keys in real if early[keys] != real[keys]}
    assert {real[keys][0] for keys in different} <= {"parallelism_config"}  # an object that no recipe holds


def test_every_topic_names_options_that_there_are():
    there = {field.name for field in dataclasses.fields(NatixTrainingArguments) if field.init}
    listed = [name for names in TRAINING_TOPICS.values() for name in names.split()]
    assert set(listed) <= there
    assert len(listed) == len(set(listed))


def test_each_training_key_of_ours_has_a_topic():
    named = {name for names in TRAINING_TOPICS.values() for name in names.split()}
    of_transformers = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {field.name for field in dataclasses.fields(TrainingOptions)} - of_transformers <= named


def test_no_two_topics_declare_one_name():
    names = [field.name for options in topics_of(Recipe) for field in dataclasses.fields(options) if field.init]
    assert len(names) == len(set(names))


def test_a_backend_of_several_processes_is_refused_where_there_is_one(write, refusal, monkeypatch):
    """torch's own message was about an environment variable."""
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    told = refusal(write("ddp_backend: gloo"))
    assert told.startswith("ddp_backend: gloo given, but there is only one process")
    assert "torchrun" in told
