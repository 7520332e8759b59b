"""A model whose photos may leave early: the answers of `TwoStages`, and tiles for the photos that need them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import natix_hf  # noqa: F401  (registers the model)
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.cascade import TwoStages
from natix_hf.modeling.checkpoints import build_model
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

KNOTS = [[[0.0, 0.4, 1.0], [0.05, 0.3, 0.95]], [[0.0, 0.6, 1.0], [0.05, 0.7, 0.95]]]
STAGES = [
    {"temperature": [0.4, 0.4], "bias": [0.0, 0.0], "isotonic": None},
    {"temperature": [1.0, 1.0], "bias": [0.1, -0.1], "isotonic": KNOTS},
]


def arrays(low: float | None, high: float | None) -> TwoStages:
    """The same cascade on arrays."""
    fitted = []
    for stage in STAGES:
        knots = stage["isotonic"] and tuple((np.array(x), np.array(y)) for x, y in stage["isotonic"])
        zeros, parts = np.zeros(2), (np.array(stage["temperature"]), np.array(stage["bias"]))
        fitted.append(Calibration("", *parts, zeros, zeros, isotonic=knots))
    return TwoStages(*fitted, low, high)


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(12, 5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(tiny_backbone) -> NatixDinov3ForImageClassification:
    views = {"tiles": 4, "aggregate": "top_k", "top_k": 2}
    return build_model(str(tiny_backbone), ["None", "Roadwork"], views=views).eval()


@torch.inference_mode()
def band(model, photos) -> tuple[float, float, np.ndarray, np.ndarray]:
    """A band that some photos leave by on either side, and the logits of both stages before any calibration."""
    model.set_calibration(1.0)
    found = model(photos, output_whole_logits=True)
    early, full = found.whole_logits.double().numpy(), found.logits.double().numpy()
    score = np.sort(1 / (1 + np.exp(early @ [1.0, -1.0] / 0.4)))
    low, high = (float(score[i : i + 2].mean()) for i in (2, 7))  # 3 photos below, 4 above
    return low, high, early, full


@torch.inference_mode()
def test_early_exits_match_two_stages_and_skip_the_tiles_of_photos_that_leave(model, photos, tmp_path):
    low, high, early, full = band(model, photos)
    expected = arrays(low, high).composite(early, full)
    bias = torch.tensor([0.3, -0.2])
    model.set_calibration(2.0, bias.tolist(), views_exit={"low": low, "high": high, "positive": 1, "stages": STAGES})
    wanted = torch.tensor(expected.logits).float() / 2 + bias

    leaves = torch.tensor(expected.stage == 1)
    hidden = photos.clone()
    hidden[leaves, 1:] = torch.nan  # whoever looked at them would answer NaN
    views = []
    model.backbone.register_forward_hook(lambda module, args, out: views.append(len(args[0])))
    found = model(hidden)
    assert found.stage.tolist() == expected.stage.tolist()
    assert int(leaves.sum()) == 7
    torch.testing.assert_close(found.logits, wanted, atol=1e-5, rtol=0)
    assert views == [12, 4 * 5]
    alone = model(hidden[leaves], labels=torch.ones(7, dtype=torch.long))
    assert views[2:] == [7]
    torch.testing.assert_close(alone.loss, torch.nn.functional.cross_entropy(wanted[leaves], torch.ones(7).long()))

    # All views for whoever asks for something of them, with the same answers.
    for asked in ({"output_features": True}, {"output_whole_logits": True}):
        torch.testing.assert_close(model(photos, **asked).logits, wanted, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    loaded = NatixDinov3ForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.views_exit == model.config.views_exit
    assert torch.equal(loaded(hidden).logits, found.logits)
    loaded.early_exits = False
    torch.testing.assert_close(loaded(photos).logits, wanted, atol=1e-5, rtol=0)
    assert loaded(photos).stage is None


@torch.inference_mode()
@pytest.mark.parametrize("some", [False, True])
def test_without_a_low_the_largest_probability_decides_and_without_a_high_nobody_leaves(model, photos, some):
    _, _, early, full = band(model, photos)
    certain = np.sort(1 / (1 + np.exp(-np.abs(early @ [1.0, -1.0]) / 0.4)))
    high = float(certain[5:7].mean()) if some else None
    expected = arrays(None, high).composite(early, full)
    model.set_calibration(1.0, views_exit={"low": None, "high": high, "positive": 1, "stages": STAGES})
    found = model(photos)
    assert found.stage.tolist() == expected.stage.tolist()
    assert int(sum(expected.stage == 1)) == (6 if some else 0)
    np.testing.assert_allclose(found.logits.numpy(), expected.logits, atol=1e-5)


def test_training_sees_all_views_and_another_calibration_takes_the_exit_off(model, photos):
    exits = {"low": 0.5, "high": 0.5, "positive": 1, "stages": STAGES}  # all leave
    plain = model.train()(photos).logits
    model.set_calibration(1.0, views_exit=exits)
    assert torch.equal(model(photos).logits, plain)
    assert model.eval()(photos).stage.tolist() == [1] * 12
    model.set_calibration(1.0)
    assert (model.config.views_exit, model(photos).stage) == (None, None)


def test_a_model_of_whole_photos_has_no_exit(model):
    with pytest.raises(ValueError, match="views_exit: given, but views is None"):
        NatixDinov3Config(backbone_config=model.config.backbone_config, views_exit={"high": 0.9})
