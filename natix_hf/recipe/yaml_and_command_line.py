"""Reads a `Recipe` from a YAML file and a command line, and writes it back as `recipe.yaml`.

The YAML file is flat: each key is an option of `options.Recipe`. Argparse casts the values of the file like those of
the command line (PyYAML reads `1e-4` as a string). The command line overrides the file. Unknown and repeated keys are
errors; the message suggests the nearest valid key.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import yaml

from natix_hf.errors import UserError, one_line
from natix_hf.options import RecipeValue, check_bounds, defaults, typed, typed_keys
from natix_hf.recipe.options import REFUSED, Recipe, topics_of
from natix_hf.recipe.transformers_files import hf_argparser
from natix_hf.training.epoch_kinds import EpochOptions
from natix_hf.training.losses.check_loss import LossOptions

if TYPE_CHECKING:
    from natix_hf.recipe.pretrain_recipe import PretrainRecipe
    from natix_hf.training.training_arguments import NatixTrainingArguments

HfArgumentParser = hf_argparser().HfArgumentParser

# Topics of --help for options of TrainingArguments; options not named here come last.
TRAINING_TOPICS = {
    "training": "output_dir overwrite_output_dir num_train_epochs max_steps per_device_train_batch_size "
    "per_device_eval_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type lr_scheduler_kwargs "
    "warmup_steps weight_decay max_grad_norm ema ema_decay ema_warmup_steps "
    "seed data_seed",
    "mixing": "mixup_alpha cutmix_alpha mix_switch_prob",
    "loss": " ".join([*defaults(LossOptions), "label_smoothing_factor"]),
    "sampling": " ".join(defaults(EpochOptions)),
    "optimizer": "optim optim_args sam_base sam_rho sam_adaptive layerwise_lr_decay loraplus_lr_ratio adam_beta1 "
    "adam_beta2 adam_epsilon",
    "checkpoints": "eval_strategy eval_steps eval_delay eval_on_start early_stopping_patience "
    "metric_for_best_model greater_is_better load_best_model_at_end save_strategy save_steps save_total_limit "
    "save_only_model resume_from_checkpoint",
    "logging": "logging_strategy logging_steps logging_first_step report_to run_name project disable_tqdm log_level",
    "hardware": "bf16 tf32 use_cpu activation_checkpointing activation_checkpointing_kwargs torch_compile "
    "torch_compile_backend torch_compile_mode dataloader_num_workers dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_prefetch_factor ddp_backend ddp_timeout fsdp fsdp_config",
    "probes": "probe_heads probe_learning_rates probe_weight_decays probe_poolings probe_layers probe_epochs "
    "warm_start",
}


# Options that concern a single start of a run, and options that TrainingArguments computes.
NOT_REPEATED = ("resume_from_checkpoint", "overwrite_output_dir", "do_eval", "local_rank")


class RecipeParser(HfArgumentParser):
    """HfArgumentParser over all options; errors are `UserError`s, and training options are grouped by topic."""

    def __init__(self, kind: type, *, early: bool = False) -> None:
        """`kind` is the recipe class: its fields are topics, and it names the command and its purpose.

        With `early`, the options of transformers are read from its source files.
        """
        super().__init__(
            topics_of(kind, early=early),
            prog=f"python -m {kind.command}",
            allow_abbrev=False,
            usage="%(prog)s RECIPE [--key value ...] [--debug]",
            description=kind.does,
        )
        self.add_argument(
            "recipe",
            help=f"YAML file, e.g. {kind.example}; each key is one of the options below, which override the file; "
            "--key null restores the default",
        )

    def _add_dataclass_arguments(self, dtype: type) -> None:
        if dtype is not self.dataclass_types[-1]:
            super()._add_dataclass_arguments(dtype)
            return
        groups = {title: self.add_argument_group(title) for title in TRAINING_TOPICS}
        topics = {name: groups[title] for title, names in TRAINING_TOPICS.items() for name in names.split()}
        other_options = self.add_argument_group("transformers")
        hints = get_type_hints(dtype)
        for field in dataclasses.fields(dtype):
            if field.init:
                field.type = hints[field.name]
                self._parse_dataclass_field(topics.get(field.name, other_options), field)

    def error(self, message: str) -> None:
        raise UserError(message)


def help_asked(argv: list[str]) -> bool:
    """Whether a command line asks for help."""
    return "-h" in argv or "--help" in argv


def help_text(argv: list[str], kind: type = Recipe, about: str | None = None) -> str:
    """The text of `--help`, `--help all` and `--help TOPIC` for a recipe, as wide as the terminal.

    Args:
        argv: the command line; words after `--help` name a topic.
        kind: the class of the recipe.
        about: text above the common keys, in place of the usage of `kind`'s command.

    Raises:
        UserError: no such topic.
    """
    parser = RecipeParser(kind, early=True)
    groups = {group.title.lower(): group for group in parser._action_groups[2:] if group._group_actions}
    actions = {action.dest: action for action in reversed(parser._actions)}  # without the --no_ form of a key
    place = min(argv.index(word) for word in ("-h", "--help") if word in argv)
    topic = " ".join(argv[place + 1 :]).lower()
    if topic == "all":
        shown = {title: [action.dest for action in group._group_actions] for title, group in groups.items()}
    elif topic in groups:
        shown = {topic: [action.dest for action in groups[topic]._group_actions]}
    elif topic:
        raise UserError(f"--help {topic}: no such topic: expected all, {', '.join(groups)}")
    else:
        shown = {title: names.split() for title, names in kind.common.items()}
    width = min(shutil.get_terminal_size().columns, 120)
    lines = []
    if not topic:
        usage = f"usage: python -m {kind.command} RECIPE [--key value ...] [--debug]"
        intro = (
            f"RECIPE is a YAML file such as {kind.example}. Its keys can also be given as options, which override "
            "the file; --key null restores the default. The most used keys, with their defaults:"
        )
        head = [about] if about else [usage, "", *textwrap.wrap(kind.does, width)]
        lines = [*head, *textwrap.wrap(intro, width)]
    for title, names in shown.items():
        lines += ["", f"{title}:"] if lines else [f"{title}:"]
        for name in dict.fromkeys(names):
            lines += _key_lines(actions[name], width, short=not topic)
    if not topic:
        more = f"--help all shows every key, --help TOPIC those of a topic: {', '.join(groups)}"
        lines += ["", *textwrap.wrap(more, width)]
    return "\n".join(lines)


def _key_lines(action: argparse.Action, width: int, *, short: bool) -> list[str]:
    """A key with its default, help and choices; `short`: cut to two lines."""
    words = (action.help or "").replace("%%", "%").rstrip(".")
    if action.choices and not all(str(choice).partition("@")[0] in words for choice in action.choices):
        words += f": {', '.join(map(str, action.choices))}"
    default = action.default if isinstance(action.default, list) else [action.default]
    column, name = 32, f"  --{action.dest}"
    if default and default[0] not in (None, ""):
        name += f" {' '.join(typed(getattr(item, 'value', item)) for item in default)}"
    room = max(width - column, 24)
    text = textwrap.wrap(words, room, max_lines=2 if short else None, placeholder=" ...") or [""]
    first = [f"{name:<{column}}{text[0]}"] if len(name) < column else [name, " " * column + text[0]]
    return [*first, *(" " * column + line for line in text[1:])]


def _refuse_unknown(key: str, where: str, known: set[str], kind: type) -> None:
    """Raise `UserError` for an unknown key, with the reason or the nearest valid key."""
    if key in known:
        return
    if key in REFUSED:
        raise UserError(f"{where}: {key} cannot be set: {REFUSED[key]}")
    listed = {f.name for options in topics_of(kind, early=True)[:-1] for f in dataclasses.fields(options)}
    listed |= {name for names in TRAINING_TOPICS.values() for name in names.split()} & known
    near = [name for names in (listed, known) for name in difflib.get_close_matches(key, names, n=1, cutoff=0.6)]
    hint = f"; did you mean '{near[0]}'?" if near else f"; python -m {kind.command} --help all lists all keys"
    raise UserError(f"{where}: unknown key '{key}'{hint}")


class _RecipeLoader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys and keeps values as text. (YAML silently keeps the last of repeated keys.)

    YAML 1.1 does not read `no`, `0012` and `2026-01-01` as text, but classes and tags may have such names. Here only
    null is special; every other value is text, which argparse casts.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                raise UserError(f"key '{key}' appears twice, in lines {seen[key]} and {line}: remove one")
            seen[key] = line
        return super().construct_mapping(node, deep)


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a recipe in the package (`lora` or `recipes/lora.yaml`)."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    here = Path(__file__).parents[1]
    short = path.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    for folder in (here / "recipes", here.parent / "recipes"):
        shipped = folder / f"{short}.yaml"
        if shipped.is_file() and str(path) in (short, f"recipes/{short}.yaml"):
            return shipped
    raise UserError(f"recipe {name}: no such file, and no recipe of the package has this name")


def read_yaml(path: Path) -> dict[str, RecipeValue]:
    """The keys and values of a recipe file; raises `UserError` if it is not one flat mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except UserError as error:
        raise UserError(f"recipe {path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: not readable as YAML: {one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"recipe {path}: expected a flat list of 'key: value' lines")
    return values


def _tokens(key: str, value: Any) -> list[str]:
    """One recipe entry as command-line tokens; none for null, which means the default."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [f"--{key}={json.dumps({name: _json_value(text) for name, text in value.items()})}"]
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)] if value else []
    return [f"--{key}={value}"]


def _json_value(text: Any) -> Any:
    """A value inside a mapping, which has no declared type: a number if it reads as one, such as `1e-6`."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _without_null(words: list[str]) -> list[str]:
    """A command line without keys that are `null`, which means the default as in a file."""
    kept: list[str] = []
    for place, word in enumerate(words):
        alone = place + 1 == len(words) or words[place + 1].startswith("--")
        if word == "null" and alone and kept and kept[-1].startswith("--") and "=" not in kept[-1]:
            kept.pop()
        elif not (word.startswith("--") and word.endswith("=null")):
            kept.append(word)
    return kept


def _check_keys(words: list[str], known: set[str], kind: type) -> set[str]:
    """The keys of a command line; raises `UserError` for an unknown or repeated one."""
    keys: set[str] = set()
    for key in typed_keys(words):
        key = key.removeprefix("no_") if key.removeprefix("no_") in known else key
        _refuse_unknown(key, "command line", known, kind)
        if key in keys:
            raise UserError(f"command line: --{key} is given twice: remove one")
        keys.add(key)
    return keys


def parse(argv: list[str], kind: type = Recipe) -> Any:
    """Parse the recipe of a command line.

    Args:
        argv: `RECIPE [--key value ...]`, without the program's name; the value `null` restores a key's default.
        kind: the class of the recipe.

    Raises:
        UserError: an unknown or repeated key, a value that cannot be cast, or no such recipe; the line names the
            source. Errors that need no torch are found before it is imported.
        SystemExit: after `--help`.
    """
    if help_asked(argv):
        print(help_text(argv, kind))
        raise SystemExit(0)
    parser = RecipeParser(kind, early=True)
    if not argv or argv[0].startswith("--"):
        raise UserError(f"no recipe given: python -m {kind.command} {kind.example} [--key value ...]")
    known = {action.dest for action in parser._actions} - {"help", "recipe"}
    path = find_recipe(argv[0])
    values = read_yaml(path)
    for key in values:
        _refuse_unknown(key, f"recipe {path}", known, kind)

    argv = ["--refit_from" + word.removeprefix("--from") if word.split("=")[0] == "--from" else word for word in argv]
    on_command_line = _check_keys(argv[1:], known, kind)
    argv = [argv[0], *_without_null(argv[1:])]

    def cast(parser: RecipeParser, tokens: list[str], where: str) -> dict[str, Any]:
        try:
            namespace, extra = parser.parse_known_args([str(path), *tokens])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if extra:
            raise UserError(f"{where}: '{extra[0]}' does not belong to a key: write --key value")
        return vars(namespace)

    # First key by key, so that an error names the source of the value; then all together.
    for key, value in values.items():
        cast(parser, _tokens(key, value), f"recipe {path}")
    cast(parser, argv[1:], "command line")
    tokens = [token for key, value in values.items() if key not in on_command_line for token in _tokens(key, value)]

    def filled(parser: RecipeParser) -> list[Any]:
        read = cast(parser, tokens + argv[1:], f"recipe {path}")
        return [
            options(**{f.name: read[f.name] for f in dataclasses.fields(options) if f.init})
            for options in parser.dataclass_types
        ]

    early = filled(parser)
    for topic in early:
        check_bounds(topic, type(topic))
    values_by_key = {field.name: getattr(topic, field.name) for topic in early for field in dataclasses.fields(topic)}
    for name in ("model_name_or_path", "dataset_name", "output_dir"):
        if not values_by_key[name]:
            raise UserError(
                f"recipe {path}: {name} is missing: add it to the file or write --{name} on the command line"
            )
    try:
        topics = filled(RecipeParser(kind))
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # TrainingArguments checks its values when it is created
        raise UserError(f"recipe {path}: {one_line(error)}") from None
    return kind(*topics)


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML: all our options, and the training options that are needed to repeat the run.

    Paths of local data sets and models are absolute, so that the file works in every directory.
    """
    topics = {"model": recipe.model, "lora": recipe.lora, "data": recipe.data, "decision": recipe.decision}
    sections = [(title, _values(options)) for title, options in (*topics.items(), ("speed", recipe.speed))]
    if recipe.purpose.refits:
        refit_from = os.path.abspath(recipe.purpose.refit_from)
        sections.append(("purpose", {"refit": recipe.purpose.refit, "refit_from": refit_from}))
    if recipe.hub.push_to_hub:
        sections.append(("hub", {name: value for name, value in vars(recipe.hub).items() if value is not None}))
    sections.append(("training", training_values(recipe.training)))
    return _text("accelerate launch -m natix_hf.train", sections)


def resolved_pretraining(recipe: PretrainRecipe) -> str:
    """The recipe as YAML, as `resolved` writes a `Recipe`."""
    *topics, training = vars(recipe).values()
    sections = [(options._argument_group_name, _values(options)) for options in topics]
    return _text(f"python -m {recipe.command}", [*sections, ("training", training_values(training))])


def _text(command: str, sections: list[tuple[str, dict[str, RecipeValue]]]) -> str:
    """The text of a `recipe.yaml` that `command` runs: titles of sections, each with its keys and values."""
    lines = ["# The recipe of this run as resolved from file and command line. Run it again with:"]
    lines.append(f"#   {command} recipe.yaml --output_dir ANOTHER")
    for title, values in sections:
        lines += ["", f"# {title}", *_yaml_lines(values)]
    return "\n".join([*lines, ""])


def _values(options: Any) -> dict[str, RecipeValue]:
    """The keys and values of one topic."""
    return {field.name: _lasting(field.name, getattr(options, field.name)) for field in dataclasses.fields(options)}


def _lasting(key: str, value: Any) -> Any:
    """The value of a key, with absolute paths for local data sets and models."""
    if isinstance(value, list) and key == "unlabelled_name":
        return [_lasting("dataset_name", source) for source in value]
    if value is None or key not in ("model_name_or_path", "dataset_name", "forgetting_name"):
        return value
    place = Path(value).expanduser()
    if place.exists():
        return os.path.abspath(place)
    name, _, path = value.partition("=")
    return f"{name}={_lasting(key, path)}" if path else value


def training_values(training: NatixTrainingArguments) -> dict[str, RecipeValue]:
    """The training options needed to repeat a run, as plain values: those in a topic, and others that were set."""
    shown = {name for names in TRAINING_TOPICS.values() for name in names.split()}
    values = {}
    for field in dataclasses.fields(training):
        value = getattr(training, field.name)
        value = getattr(value, "value", value)  # enums
        plain = isinstance(value, bool | int | float | str | list | dict) and value not in ("", [], {})
        if field.init and plain and (field.name in shown or value != field.default) and field.name not in NOT_REPEATED:
            values[field.name] = value
    return values


def _yaml_lines(values: dict[str, RecipeValue]) -> list[str]:
    """One `key: value` line per option; a list stays on one line."""
    flow = {
        key: yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10_000)
        for key, value in values.items()
    }
    return [f"{key}: {text.strip()[1:-1]}" for key, text in flow.items()]
