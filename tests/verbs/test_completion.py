"""What bash offers behind `natix-hf`, asked of a real one."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest

from natix_hf.__main__ import VERBS
from natix_hf.completion import main, script
from natix_hf.errors import UserError


@pytest.fixture(scope="module")
def offered():
    """What may follow words, of which the last one is not complete."""
    source = script("bash")

    def ask(*words: str) -> list[str]:
        typed = " ".join(map(shlex.quote, ["natix-hf", *words]))
        asked = f"COMP_WORDS=({typed}) COMP_CWORD={len(words)}; _natix_hf; echo ${{COMPREPLY[*]}}"
        asked = f"{source}\n{asked}"
        return subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout.split()

    return ask


@pytest.mark.parametrize(
    ("words", "follow"),
    [
        (["tra"], ["train"]),
        (["train", "recipes/x.yaml", "--learning_r"], ["--learning_rate"]),
        (["train", "--trust"], ["--trust_remote_code"]),
        (["sweep", "my recipe.yaml", "--gri"], ["--grid"]),
        (["sweep", "x.yaml", "--lora_drop"], ["--lora_dropout"]),
        (["pipeline", "x.yaml", "--dry"], ["--dry_run"]),
        (["pipeline", "x.yaml", "--lora_drop"], ["--lora_dropout"]),
        (["pretrain", "x.yaml", "--pretrain_obj"], ["--pretrain_objective"]),
        (["train", "x.yaml", "--method", ""], ["lora", "probe", "full"]),
        (["train", "x.yaml", "--method", "="], ["lora", "probe", "full"]),
        (["train", "x.yaml", "--method", "=", "p"], ["probe"]),
        (["train", "x.yaml", "--sampling", "bal"], ["balanced"]),
        (["train", "x.yaml", "--near_duplicates", ""], ["true", "false"]),
        (["data", ""], ["split", "check", "push"]),
        (["data", "split", "photos/", "--test_s"], ["--test_split"]),
        (["data", "check", "--test_s"], []),
        (["publish", "runs/x", "me/x", "--dtype", "b"], ["bf16"]),
        (["completion", ""], ["bash", "zsh"]),
        (["train", ""], []),  # then the shell offers files
        (["predict", "runs/x", "photos/", "--output", ""], []),
    ],
)
def test_bash_offers_what_may_follow(offered, words, follow):
    found = offered(*words)
    assert found[: len(follow)] == follow
    assert len(found) == len(follow) or words[-1].startswith("--")


def test_every_verb_is_offered_and_has_options(offered):
    assert offered("")[: len(VERBS)] == list(VERBS)
    for verb in set(VERBS) - {"data", "completion"}:  # which take words first
        assert "--help" in offered(verb, "--")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_printed_script_is_valid_for_its_shell(shell, capsys):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    main([shell])
    done = subprocess.run([shell, "-n"], input=capsys.readouterr().out, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused():
    with pytest.raises(UserError, match="invalid choice: 'tcsh'"):
        main(["tcsh"])
