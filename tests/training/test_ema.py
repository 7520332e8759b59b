import torch
from torch import nn

from natix_hf.training.ema import Ema


def test_shadow_follows_the_closed_form():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = Ema(model, decay=0.9, warmup_steps=10)
    expected = 1.0
    for t, value in enumerate([2.0, 3.0, -1.0, 5.0]):
        model.weight.data.fill_(value)
        ema.update(t)
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.shadow["weight"].item(), expected)


def test_a_run_of_twenty_steps_is_not_left_at_its_start():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    ema = Ema(model, decay=0.9999)
    model.weight.data.fill_(1.0)
    for t in range(20):
        ema.update(t)
    assert ema.shadow["weight"].item() > 0.99


def test_long_runs_reach_the_decay_that_was_asked_for():
    ema = Ema(nn.Linear(1, 1), decay=0.999)
    assert ema.decay_at(0) == 0.1
    assert ema.decay_at(100_000) == 0.999


def test_only_trainable_parameters_are_averaged():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert Ema(model, decay=0.9).shadow.keys() == {"1.weight", "1.bias"}


def test_weights_swap_in_and_out_also_when_nested_or_interrupted():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = Ema(model, decay=0.5)
    model.weight.data.fill_(7.0)
    with ema.weights():
        assert model.weight.item() == 1.0
        with ema.weights():
            assert model.weight.item() == 1.0
        assert model.weight.item() == 1.0
    assert model.weight.item() == 7.0
    try:
        with ema.weights():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert model.weight.item() == 7.0
    assert ema.shadow["weight"].item() == 1.0


def test_what_a_loss_adds_to_the_model_is_not_averaged():
    """The projection of supcon is attached after the average was begun; following the model again leaves it out."""
    model = nn.Sequential(nn.Linear(2, 2))
    ema = Ema(model, 0.9)
    names = set(ema.shadow)
    model.add_module("projection", nn.Linear(2, 3))
    ema.follow(model)
    assert set(ema.shadow) == set(ema.parameters) == names
    model[0].weight = nn.Parameter(torch.ones(2, 2))  # as sharding does
    ema.follow(model)
    assert set(ema.shadow) == names
    assert ema.parameters["0.weight"] is model[0].weight
    assert torch.equal(ema.shadow["0.weight"], torch.ones(2, 2))
