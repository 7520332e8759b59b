"""What a photo costs: operations held to the closed form of a ViT, and views and tokens to the geometry."""

from __future__ import annotations

import pytest
import torch

from natix_hf import load_model
from natix_hf.inference.photo_cost import photo_cost
from natix_hf.report.photo_cost import cost_cells, cost_line

LAYERS, WIDTH, INNER, PATCH, BESIDE = 2, 32, 64, 16, 5  # of the tiny backbone


def operations(height: int, width: int) -> int:
    """Two for each product: patches, four projections, scores and their sums, two layers of the MLP, the head."""
    patches = (height // PATCH) * (width // PATCH)
    tokens = patches + BESIDE
    block = tokens * WIDTH * (4 * WIDTH + 2 * INNER) + 2 * tokens**2 * WIDTH
    return 2 * (patches * 3 * PATCH**2 * WIDTH + LAYERS * block + WIDTH * 2)


@pytest.mark.parametrize("size", [[32, 32], [32, 64], [48, 80]])
def test_operations_are_those_of_the_shape(tiny_backbone, size):
    model, processor = load_model(
        str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=size, pooling="cls"
    )
    model.train()
    before = torch.get_rng_state()
    found = photo_cost(model, processor)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.views, found.height, found.width) == (1, *size)
    assert found.tokens == BESIDE + size[0] * size[1] // PATCH**2
    assert found.flop == operations(*size)
    assert found.seconds > 0


def test_the_cost_is_one_line_with_dashes_for_unknown_values(tiny_backbone):
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=[32, 64])
    cost = photo_cost(model, processor).model_copy(update={"flop": 9_240_000_000, "seconds": 0.0614})
    line = cost_line(cost)
    assert line.startswith("a photo costs 1 view of 32 x 64 px, 13 tokens, 9.24 GFLOP and 0.0614 s of the network")
    assert "one photo at a time" in line
    tiles = cost.model_copy(update={"views": 10, "batch": 16})
    assert "10 views of 32 x 64 px" in cost_line(tiles)
    assert "16 photos at a time" in cost_line(tiles)
    assert set(cost_cells(None)) == {"-"}
    assert len(cost_cells(None)) == len(cost_cells(cost))
