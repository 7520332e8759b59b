"""The keys of a command line, however they are typed."""

from natix_hf.options import typed_keys, without_keys

WORDS = ["lora.yaml", "--lora-r", "8", "--output_dir=runs/a", "--label_names", "a", "b", "--fold_threshold"]


def test_keys_are_read_with_dashes_and_equals_signs():
    assert typed_keys(WORDS) == ["lora_r", "output_dir", "label_names", "fold_threshold"]


def test_a_key_is_left_out_with_all_its_values():
    assert without_keys(WORDS, ["output_dir", "label_names"]) == ["lora.yaml", "--lora-r", "8", "--fold_threshold"]
    assert without_keys(WORDS, ["lora_r", "fold_threshold"]) == [
        "lora.yaml",
        "--output_dir=runs/a",
        "--label_names",
        "a",
        "b",
    ]
    assert without_keys(WORDS, []) == WORDS
