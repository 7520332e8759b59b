"""Print a script that lets bash or zsh complete verbs, options, values and files behind `natix-hf`.

python -m natix_hf.completion bash

The script is a table of words and starts no Python, so completion takes no time. Print it again after an update.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterator

from natix_hf.__main__ import VERBS, module_of
from natix_hf.errors import CommandParser, command

# `before` holds the words between natix-hf and the word to complete. bash cuts `--key=value` at the `=`.
SCRIPT = r"""_natix_hf() {{
    local IFS=$' \t\n' words= cur="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[*]:1:$((COMP_CWORD-1))}} "
    [[ $cur != = ]] || {{ cur=; before+="= "; }}
    case "${{before%= }}" in
{cases}
    esac
    [[ $cur == -* || $words != -* ]] || words=  # a value or a file
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _natix_hf natix-hf
"""
ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.completion", description=__doc__.split("\n")[0])
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell that reads the script")
    return parser


def _actions(verb: str) -> list[argparse.Action]:
    """The arguments of a verb: keys of a recipe, its own options, or both."""
    from natix_hf.recipe.options import Recipe
    from natix_hf.recipe.pretrain_recipe import PretrainRecipe
    from natix_hf.recipe.yaml_and_command_line import RecipeParser
    from natix_hf.runs.many_runs.sweep_plan import OWN

    if verb not in ("train", "folds", "sweep", "pipeline", "pretrain"):
        return importlib.import_module(module_of(verb)).command_line()._actions
    parser = RecipeParser(PretrainRecipe if verb == "pretrain" else Recipe, early=True)
    for name in OWN if verb == "sweep" else ():
        parser.add_argument(f"--{name}")
    own = importlib.import_module(module_of(verb)).command_line()._actions if verb == "pipeline" else []
    return [*parser._actions, *own]


def _cases(typed: str, actions: list[argparse.Action]) -> Iterator[tuple[str, list[str]]]:
    """Patterns of the words typed so far, and the words that may follow; the first matching pattern is used."""
    options = []
    for action in actions:
        on_off = ["true", "false"] if action.nargs == "?" and action.const is True else []
        words = [str(choice) for choice in action.choices or on_off]
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                yield from _cases(f"{typed}{name} ", parser._actions)
            yield shlex.quote(typed), words
            return
        if not action.option_strings:
            if words:
                yield shlex.quote(typed), words
            continue
        option = next(option for option in action.option_strings if option.startswith("--"))
        options.append(option)
        if words:
            yield f"{shlex.quote(typed)}*{shlex.quote(f'{option} ')}", words
    yield f"{shlex.quote(typed)}*", options


def script(shell: str) -> str:
    """The script for `bash` or `zsh`."""
    patterns: dict[str, list[str]] = {" ".join([*VERBS, "--help", "--version"]): ["' '"]}
    for verb in VERBS:
        for pattern, words in _cases(f"{verb} ", _actions(verb)):
            patterns.setdefault(" ".join(words), []).append(pattern)
    last = sorted(
        patterns.items(), key=lambda case: case[1][0].endswith("*")
    )  # the patterns of options also match where values are expected
    cases = (f"        {'|'.join(alike)}) words={shlex.quote(words)};;" for words, alike in last)
    return (ZSH if shell == "zsh" else "") + SCRIPT.format(cases="\n".join(cases))


def main(argv: list[str]) -> None:
    print(script(command_line().parse_args(argv).shell), end="")


if __name__ == "__main__":
    command(main)
