"""A table of Markdown holds any cell."""

from natix_hf.runs.markdown_table import markdown_table


def test_a_bar_in_a_cell_does_not_end_it():
    assert markdown_table(["city", "n"], [["a|b", "3"], ["c", "-"]]) == [
        "| city | n |",
        "|---|---|",
        "| a\\|b | 3 |",
        "| c | - |",
    ]
