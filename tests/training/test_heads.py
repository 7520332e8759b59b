import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from natix_hf.errors import UserError
from natix_hf.inference.features import pooled
from natix_hf.training.heads import Setting, best_head, settings, train_heads


def make_parts(rows, seed, classes=2, layers=2, hidden=5):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    parts = rng.normal(size=(rows, layers, 2, hidden)) * 3 + 7
    parts[np.arange(rows), -1, 0, labels] += 4
    return parts.astype(np.float32), labels


def alone(parts, labels, setting, *, epochs, batch_size, seed, classes, smoothing=0.0, class_weights=None):
    """One head by torch's own loss and optimizer."""
    values = torch.tensor(parts)
    values = (values - values.mean(0)) / values.std(0, correction=0)
    features = pooled(values, setting.pooling, setting.layers)
    linear = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    rate = setting.learning_rate * batch_size / 256
    groups = [{"params": [linear.weight], "weight_decay": setting.weight_decay}, {"params": [linear.bias]}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    steps = math.ceil(len(parts) / batch_size * epochs)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, order = torch.Generator().manual_seed(seed), []
    weight = None if class_weights is None else torch.tensor(class_weights)
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(len(parts), generator=generator).split(batch_size))
        index = order.pop(0)
        target = torch.tensor(labels)[index]
        loss = torch.nn.functional.cross_entropy(
            linear(features[index]), target, weight=weight, label_smoothing=smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return features, linear


@pytest.mark.parametrize("classes", [2, 3])
def test_many_heads_at_once_equal_each_head_trained_alone_by_torch(classes):
    parts, labels = make_parts(50, 1, classes)
    wanted = settings(["cls", "cls_mean"], [1, 2], [0.05, 1.0], [0.0, 0.01])
    assert len(wanted) == 16
    heads = train_heads([parts], labels, parts, wanted, classes=classes, epochs=3, batch_size=16, seed=4)
    for setting, head in zip(wanted, heads):
        features, linear = alone(parts, labels, setting, epochs=3, batch_size=16, seed=4, classes=classes)
        assert head.setting == setting
        expected = linear(features).detach().numpy()
        np.testing.assert_allclose(head.logits, expected, atol=2e-4)
        # The standardisation is folded in: the head reads features as they are.
        plain = pooled(torch.tensor(parts), setting.pooling, setting.layers)
        np.testing.assert_allclose(plain @ head.weight.T + head.bias, expected, atol=2e-4)


def test_class_weights_and_label_smoothing_are_those_of_torch():
    parts, labels = make_parts(40, 2)
    setting = Setting("cls", 1, 0.5, 0.0)
    heads = train_heads(
        [parts], labels, parts, [setting], classes=2, epochs=2, batch_size=40, class_weights=[1.5, 0.5]
    )
    features, linear = alone(
        parts, labels, setting, epochs=2, batch_size=40, seed=0, classes=2, class_weights=[3.0, 1.0]
    )
    np.testing.assert_allclose(heads[0].logits, linear(features).detach().numpy(), atol=2e-4)
    heads = train_heads([parts], labels, parts, [setting], classes=2, epochs=2, batch_size=40, label_smoothing=0.2)
    features, linear = alone(parts, labels, setting, epochs=2, batch_size=40, seed=0, classes=2, smoothing=0.2)
    np.testing.assert_allclose(heads[0].logits, linear(features).detach().numpy(), atol=2e-4)


def test_a_head_with_decay_converges_to_logistic_regression_by_lbfgs():
    parts, labels = make_parts(200, 3)
    decay = 0.05
    heads = train_heads(
        [parts], labels, parts, [Setting("mean", 2, 1.0, decay)], classes=2, epochs=400, batch_size=200
    )
    features = parts[:, :, 1].reshape(200, -1)
    features = (features - features.mean(0)) / features.std(0)
    # Two rows of weights w and -w cost twice the square of each: sklearn's single row is their difference 2w.
    reference = LogisticRegression(C=2 / (200 * decay), tol=1e-8, max_iter=1000).fit(features, labels)
    odds = heads[0].logits[:, 1] - heads[0].logits[:, 0]
    np.testing.assert_allclose(odds, reference.decision_function(features), atol=5e-3)


def test_passes_take_the_views_in_turn():
    parts, labels = make_parts(30, 6)
    other, _ = make_parts(30, 7)
    setting, how = Setting("cls", 1, 0.3, 0.0), {"classes": 2, "batch_size": 30}
    both = train_heads([parts, other], labels, parts, [setting], epochs=1, **how)[0]
    one = train_heads([parts], labels, parts, [setting], epochs=1, **how)[0]
    np.testing.assert_allclose(both.weight, one.weight)
    both = train_heads([parts, other], labels, parts, [setting], epochs=2, **how)[0]
    one = train_heads([parts], labels, parts, [setting], epochs=2, **how)[0]
    assert not np.allclose(both.weight, one.weight)


def test_a_constant_feature_is_left_out_and_blows_nothing_up():
    parts, labels = make_parts(30, 4)
    parts[:, :, :, 2] = 5.0
    head = train_heads([parts], labels, parts, [Setting("cls", 1, 0.1, 0.0)], classes=2, epochs=2, batch_size=8)[0]
    assert np.isfinite(head.logits).all()
    assert (head.weight[:, 2] == 0).all()


def test_the_best_head_wins_by_score_then_by_loss_and_never_with_logits_that_are_not_finite():
    parts, labels = make_parts(30, 5)
    wanted = settings(["cls"], [1], [0.01, 0.1, 0.2], [0.0])
    heads = train_heads([parts], labels, parts, wanted, classes=2, epochs=1, batch_size=10)
    assert best_head(heads, [0.5, 0.7, 0.7], [0.1, 0.4, 0.3]) == 2
    broken = [*heads[:2], type(heads[2])(heads[2].setting, heads[2].weight, heads[2].bias, heads[2].logits * np.nan)]
    assert best_head(broken, [0.5, 0.7, 0.9], [0.1, 0.4, 0.3]) == 1
    with pytest.raises(UserError, match="every head diverged"):
        best_head([broken[2]], [float("nan")], [float("nan")])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((["max"], [1], [0.1], [0.0]), "probe_poolings: expected cls, mean, cls_mean; found max"),
        ((["cls"], [0], [0.1], [0.0]), "probe_layers: expected .*, found 0"),
        ((["cls"], [1], [-0.1], [0.0]), "probe_learning_rates: expected .*, found -0.1"),
        ((["cls"], [1], [0.1], [-1.0]), "probe_weight_decays: expected .*, found -1.0"),
    ],
)
def test_grids_that_hold_no_heads_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        settings(*values)
