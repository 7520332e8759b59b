"""How code blocks and their commands are found in a page."""

from __future__ import annotations

from pathlib import Path

from code_blocks import INDENTED_COMMAND, Command, blocks, commands

PAGE = """# A page

<!-- not run: needs a GPU -->

```bash
natix-hf train recipes/lora.yaml
```

- in a list

  ```python
  if True:
      print(1)
  ```

<!-- not run: belongs to nothing -->
Text.

<!-- run by make test-long: trains two runs -->
```bash
natix-hf sweep recipes/lora.yaml
```

```text
natix-hf
```
"""


def test_blocks_have_their_line_language_text_and_the_reason_above_them(tmp_path: Path):
    (tmp_path / "page.md").write_text(PAGE)
    assert [block[1:] for block in blocks(tmp_path / "page.md")] == [
        (5, "bash", "natix-hf train recipes/lora.yaml\n", "not run", "needs a GPU"),
        (11, "python", "if True:\n    print(1)\n", None, None),
        (20, "bash", "natix-hf sweep recipes/lora.yaml\n", "run by make test-long", "trains two runs"),
        (24, "text", "natix-hf\n", None, None),
    ]


def test_a_marked_block_is_run_later_or_never(tmp_path: Path):
    (tmp_path / "page.md").write_text(PAGE)
    assert [(block.runs, block.long) for block in blocks(tmp_path / "page.md")] == [
        (False, False),
        (True, False),
        (False, True),
        (False, False),
    ]


def test_commands_of_the_package_are_told_from_others():
    text = (
        "natix-hf predict runs/lora 'a b/*.jpg' \\\n    --output p.csv  # a comment\n"
        "accelerate launch --cpu -m natix_hf.train r.yaml --lora_r 8\n"
        "python -m natix_hf.evaluate runs/lora | tail -n 1\n"
        "pip install . && natix-hf data check data/streets\n"
        "python -m venv .venv\n"
    )
    assert commands(text) == [
        Command("natix_hf.predict", ["runs/lora", "a b/*.jpg", "--output", "p.csv"]),
        Command("natix_hf.train", ["r.yaml", "--lora_r", "8"]),
        Command("natix_hf.evaluate", ["runs/lora"]),
        Command(None, ["tail", "-n", "1"]),
        Command(None, ["pip", "install", "."]),
        Command("natix_hf.data", ["check", "data/streets"]),
        Command(None, ["python", "-m", "venv", ".venv"]),
    ]


def test_a_command_behind_an_indent_is_seen():
    assert INDENTED_COMMAND.match("    natix-hf train recipes/lora.yaml")
    assert INDENTED_COMMAND.match("    from transformers import pipeline")
    assert not INDENTED_COMMAND.match("    a line of an admonition about natix-hf")
