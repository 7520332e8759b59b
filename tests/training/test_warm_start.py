import numpy as np
import pytest
import torch

from natix_hf import UserError, finish_run, load_model, train_run
from natix_hf.documents.probe import OverProbe
from natix_hf.inference import features
from natix_hf.inference.features import weights_fingerprint
from natix_hf.report.metrics import classification_metrics
from natix_hf.runs.finish_run import run_lines

WARM = {"warm_start": "probe", "probe_learning_rates": [0.1, 1.0], "probe_epochs": 10, "num_train_epochs": 1}


def test_the_head_starts_as_the_best_probe_and_the_run_says_what_lora_added(job, tmp_path, capsys, monkeypatch):
    computed = []
    real = features.token_parts
    monkeypatch.setattr(features, "token_parts", lambda m, p, n: computed.append(len(p)) or real(m, p, n))
    trainer = job(lora_dropout=0.0, **WARM)
    assert "warm start: the best of 2 heads" in capsys.readouterr().out
    assert sum(computed) == trainer.splits.sizes["train"] + trainer.splits.sizes["val_select"]
    select = trainer.splits.rows("selection", step="predictions")
    # Adapters do nothing yet: the model is the probe.
    kept = trainer.warm.features(trainer.plain_model(), select)
    expected = kept.table() @ trainer.warm.head.weight.numpy().T + trainer.warm.head.bias.numpy()
    np.testing.assert_allclose(trainer.logits(select), expected, atol=1e-4)
    train_run(trainer)
    probe = trainer.probe_predictions()
    # The probe's features are those of the untouched backbone, though the adapters have moved by now.
    fresh = job("probe", name="fresh", probe_heads="grid", num_train_epochs=1)
    test = fresh.splits.rows("final_evaluation", step="predictions")
    count = sum(computed)
    table = fresh.source.client_set(test, fresh.model).table()
    assert sum(computed) == count  # the probe of another run is served by the same cache
    logits = table @ trainer.warm.head.weight.numpy().T + trainer.warm.head.bias.numpy()
    np.testing.assert_allclose(probe["val_test"][2], logits, atol=1e-4)
    metrics = finish_run(trainer)
    one = OverProbe.read(tmp_path / "run").metrics["accuracy"]
    assert one.tuned.value == metrics.metrics["accuracy"].value
    assert one.probe.value == classification_metrics(probe["val_test"][2], np.array(test["label"]))["accuracy"]
    assert one.difference.difference == pytest.approx(one.tuned.value - one.probe.value)
    assert any("over the probe on the same" in line for line in run_lines(trainer, metrics))


def test_adapters_that_do_nothing_leave_the_fingerprint_and_those_that_do_change_it(tiny_backbone):
    plain = load_model(str(tiny_backbone), ["a", "b"], method="probe", image_size=32)[0]
    lora = load_model(str(tiny_backbone), ["a", "b"], method="lora", image_size=32)[0]
    backbone = lora.get_base_model().backbone
    assert weights_fingerprint(backbone) == weights_fingerprint(plain.backbone)
    with torch.no_grad():
        next(p for n, p in backbone.named_parameters() if "lora_B" in n)[0, 0] = 0.1
    assert weights_fingerprint(backbone) != weights_fingerprint(plain.backbone)


def test_no_comparison_where_the_backbone_itself_moved(job, tmp_path):
    for name, method, more in (("norms", "lora", {"lora": {"lora_train_norms": True}}), ("full", "full", {})):
        trainer = job(method, name=name, **WARM, **more)
        assert not trainer.probe_predictions()


def test_a_warm_start_needs_a_linear_head_and_something_to_tune(job):
    with pytest.raises(UserError, match="warm_start: probe given, but the method is already probe"):
        job("probe", **WARM)
    with pytest.raises(UserError, match="warm_start: a probe has a linear head, but head is mlp"):
        job(**WARM, model_options={"head": "mlp"})


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_a_residual_head_goes_on_from_the_best_linear_one(job, method):
    """On cached features too: a probe with a residual head is more than the probe that it starts from."""
    trainer = job(method, lora_dropout=0.0, learning_rate=1e-2, model_options={"head": "residual"}, **WARM)
    select = trainer.splits.rows("selection", step="predictions")
    kept = trainer.warm.features(trainer.plain_model(), select)
    expected = kept.table() @ trainer.warm.head.weight.numpy().T + trainer.warm.head.bias.numpy()
    np.testing.assert_allclose(trainer.logits(select), expected, atol=1e-4)
    train_run(trainer)
    assert trainer.plain_model().head.hidden.down.weight.any()
    assert not np.allclose(trainer.logits(select), expected, atol=1e-3)
    finish_run(trainer)
