"""Guides of pretraining: which way gradients go, what features then tell, and what a run with guides keeps to."""

import csv

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from natix_hf.data.splits.slicing import check_guides
from natix_hf.data.splits.unlabelled_pool import read_pool
from natix_hf.errors import UserError
from natix_hf.modeling.checkpoints import load_backbone
from natix_hf.training.checkpoints import checkpoints
from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.guides import Guide, GuideHeads, guides_of, scaled_gradient
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.pretrain_trainer import milestones
from natix_hf.training.pretrain.schedules import Phases
from natix_hf.training.pretrain.student import Student

WEATHER = Guide("weather", "spurious", ["fog", "rain", "sun"])


def options(**given):
    return PretrainOptions(**{"pretrain_objective": "distill", "pretrain_drop_path": 0.0, **given})


# -- gradients --------------------------------------------------------------------------------------------------------


def test_a_reversed_gradient_is_the_one_worked_out_by_hand():
    """Softmax regression: the gradient of the cross-entropy is W^T (p - y) / n for features, (p - y) f^T / n for W."""
    features = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 0.0]], requires_grad=True)
    kinds, weight = torch.tensor([[0], [2], [-1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    heads = GuideHeads(2, [WEATHER])
    heads.heads[0] = nn.Linear(2, 3, bias=False)
    heads.heads[0].weight.data.copy_(weight)
    loss = heads(features, kinds, strength=0.25)
    gap = (features @ weight.T).softmax(dim=1) - torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 0, 0]])
    gap[2] = 0  # the row without a value
    wanted = -(features @ weight.T).log_softmax(dim=1)[[0, 1], [0, 2]].sum() / 3
    assert_close(loss, wanted[None])
    loss.sum().backward()
    assert_close(features.grad, -0.25 * gap.detach() @ weight / 3)
    assert_close(heads.heads[0].weight.grad, gap.detach().T @ features.detach() / 3)


def test_features_pass_as_they_are_and_gradients_are_scaled():
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    passed = scaled_gradient(features, -0.5)
    assert torch.equal(passed, features)
    passed.backward(torch.ones(4, 3))
    assert_close(features.grad, torch.full((4, 3), -0.5))


def test_rows_without_a_value_add_nothing_and_batches_add_up():
    torch.manual_seed(0)
    heads, features = GuideHeads(4, [WEATHER, Guide("city", "informative", ["a", "b"])]), torch.randn(6, 4)
    kinds = torch.tensor([[0, 1], [-1, 0], [2, -1], [1, -1], [-1, -1], [0, 0]])
    whole = heads(features, kinds, 1.0)
    halves = [heads(features[half], kinds[half], 1.0) for half in (slice(3), slice(3, 6))]
    assert_close(whole, (halves[0] + halves[1]) / 2)
    assert_close(heads(features, torch.full((6, 2), -1), 1.0), torch.zeros(2))
    other = features.clone()
    other[4] += 7
    assert torch.equal(heads(other, kinds, 1.0), whole)


def batch(guides=1):
    generator = torch.Generator().manual_seed(0)
    return {
        "global_views": torch.randn(4, 3, 32, 32, generator=generator),
        "masks": torch.rand(4, 4, generator=generator) < 0.5,
        "kinds": torch.tensor([[0], [1], [2], [-1]]).repeat(1, guides),
    }


def backbone_gradients(tiny_backbone, word, strength, heads_only=False):
    """Gradients of a student whose only guide is `word`; None: it has none."""
    student, given = Student(load_backbone(str(tiny_backbone)), options()), batch()
    if word is None:
        del given["kinds"]
    else:
        student.add_guides([WEATHER._replace(word=word)], seed=3)
    by = Ema(student, 0.9)
    student(**given, targets_by=by, temperature=0.0, heads_only=heads_only, guide_strength=strength)["loss"].backward()
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def test_spurious_and_informative_push_the_backbone_in_opposite_directions(tiny_backbone):
    none = backbone_gradients(tiny_backbone, None, 1.0)
    spurious, informative = (backbone_gradients(tiny_backbone, word, 0.5) for word in ("spurious", "informative"))
    pushed = 0.0
    for name, plain in none.items():
        assert_close(spurious[name] + informative[name], 2 * plain, rtol=1e-3, atol=1e-4, msg=name)
        pushed += float((spurious[name] - plain).abs().sum())
    assert pushed > 0.1
    weight = "guides.heads.0.2.weight"
    assert torch.equal(spurious[weight], informative[weight])  # heads learn to tell the kinds either way
    assert float(spurious[weight].abs().sum()) > 0.01


def test_guides_are_trained_alone_first_and_at_no_strength_change_nothing(tiny_backbone):
    alone = backbone_gradients(tiny_backbone, "spurious", 0.0, heads_only=True)
    assert {name.partition(".")[0] for name in alone} == {"objective", "guides"}
    none, weak = backbone_gradients(tiny_backbone, None, 1.0), backbone_gradients(tiny_backbone, "spurious", 0.0)
    for name, plain in none.items():
        assert torch.equal(weak[name], plain), name


def test_the_strength_rises_behind_the_heads_steps_as_in_dann():
    phases = Phases(heads=40, ramp=4, total=140)
    assert [phases.guide_share(step) for step in (0, 39, 40)] == [0, 0, 0]
    assert phases.guide_share(90) == pytest.approx(0.98661429815143)  # 2 / (1 + e^-5) - 1
    assert phases.guide_share(139) == pytest.approx(1, abs=2e-4)


# -- what features tell afterwards ------------------------------------------------------------------------------------


def fresh_cross_entropy(features, kinds):
    """Of a logistic regression that has seen nothing of the training."""
    spread = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    model = LogisticRegression(C=1.0, max_iter=2000).fit(spread.numpy(), kinds.numpy())
    return log_loss(kinds.numpy(), model.predict_proba(spread.numpy()))


@pytest.mark.parametrize("word", ["spurious", "informative"])
def test_a_fresh_probe_finds_less_of_a_spurious_column_and_more_of_an_informative_one(word):
    """A linear encoder that is to keep what it said; one of its four inputs tells the column, with noise."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(400) % 2
    inputs = torch.randn(400, 4, generator=generator)
    inputs[:, 0] = inputs[:, 0] + (2.0 * kinds - 1)
    torch.manual_seed(0)
    encoder, heads = nn.Linear(4, 2), GuideHeads(2, [Guide("weather", word, ["rain", "sun"])])
    encoder.weight.data.copy_(torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]) / 2)
    encoder.bias.data.zero_()
    start = encoder(inputs).detach()
    rates = [{"params": encoder.parameters(), "lr": 0.003}, {"params": heads.parameters(), "lr": 0.03}]
    optimizer = torch.optim.AdamW(rates)
    for step in range(300):
        optimizer.zero_grad()
        said = encoder(inputs)
        strength = 0.0 if step < 100 else 1.0
        loss = 0.1 * F.mse_loss(said, start) + heads(said, kinds[:, None], strength).sum()
        loss.backward()
        optimizer.step()
    before, after = fresh_cross_entropy(start, kinds), fresh_cross_entropy(encoder(inputs).detach(), kinds)
    assert 0.4 < before < 0.5
    if word == "spurious":
        assert after > 0.65  # of log 2 = 0.693, where nothing is found
    else:
        assert after < before - 0.1


# -- runs -------------------------------------------------------------------------------------------------------------


def tagged(folder, make_photos, classes, count, seed, tags):
    """Photos with a table that says their `weather`, in turn one of `tags`; None: the table lacks the column."""
    make_photos(folder, classes, count, seed=seed)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", *(["weather"] if tags else [])])
        table.writerows([n, n.split("/")[0], *([tags[i % len(tags)]] if tags else [])] for i, n in enumerate(names))
    return folder


@pytest.fixture
def guided(pretraining, make_photos, tmp_path):
    """A function that builds a `PretrainTrainer` on photos with weather, by default guided by it."""
    classes = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}
    photos = tagged(tmp_path / "tagged", make_photos, classes, 24, 0, ["sun", "rain", "sun", ""])
    pool = tagged(tmp_path / "tagged-pool", make_photos, {"x": (20, 200, 90)}, 20, 3, ["fog", "sun", ""])

    def build(name="run", pretrain_guides=("weather=spurious",), **given):
        guides = list(pretrain_guides) if pretrain_guides else None
        return pretraining(name, photos=photos, pool=pool, pretrain_guides=guides, **given)

    return build


def last_weights(trainer):
    return load_file(milestones(trainer.args.output_dir)[-1] / "model.safetensors")


def test_kinds_are_those_of_train_and_of_the_pool_and_rows_carry_theirs(guided):
    trainer = guided()
    photos = trainer.train_dataset
    assert trainer.model.guides.heads[0][-1].out_features == 3  # fog, rain, sun
    found = {photos[0, row]["kinds"].item() for row in range(len(photos))}
    assert found == {-1, 0, 1, 2}
    part = photos.photos[1]
    kinds = [photos[0, len(photos.photos[0]) + row]["kinds"].item() for row in range(len(part))]
    assert kinds == [{"fog": 0, "sun": 2, "unknown": -1}[value] for value in part["weather"][:]]
    batch = trainer.data_collator([photos[0, 0], photos[0, 1]])
    assert batch["kinds"].shape == (2, 1)


def test_a_guide_that_does_not_reach_the_features_leaves_everything_else_as_it_was(guided):
    """Crops, masks, order, heads of the objective: bit by bit those of a run without guides."""
    whole = {"max_grad_norm": 1e9}  # else the guides' heads count in the norm that all gradients are clipped to
    plain, weak = (
        guided("plain", pretrain_guides=None, **whole),
        guided("weak", pretrain_guides_weight=1e-30, **whole),
    )
    for trainer in (plain, weak):
        trainer.train()
    first, second = map(last_weights, (plain, weak))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    strong = guided("strong", **whole)
    strong.train()
    assert any(not torch.equal(first[name], tensor) for name, tensor in last_weights(strong).items())


@pytest.mark.parametrize("objective", ["distill", "dino"])
def test_an_interrupted_run_with_guides_goes_on_and_ends_like_the_undisturbed_one(guided, objective, stop_at):
    if objective == "dino":
        pytest.importorskip("lightly")
    given = {"pretrain_objective": objective, "pretrain_drop_path": 0.2}
    whole = guided("whole", **given)
    whole.train()
    stopped = guided("stopped", callbacks=[stop_at(6)], **given)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    (point,) = checkpoints(stopped.args.output_dir)
    assert "guides.heads.0.2.weight" in load_file(point / "raw_trainable.safetensors")
    again = guided("stopped", **given)
    torch.manual_seed(99)
    again.train(resume_from_checkpoint=True)
    first, second = (dict(trainer.model.named_parameters()) for trainer in (whole, again))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    first, second = map(last_weights, (whole, again))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_accumulated_steps_with_guides_are_those_of_one_large_batch(guided):
    def weights(batch, steps):
        given = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "max_steps": 3}
        trainer = guided(f"run-{batch}", pretrain_momentum=0.0, **given)
        trainer.train()
        return last_weights(trainer)

    one, two = weights(8, 1), weights(4, 2)
    for name in one:
        assert_close(one[name], two[name], rtol=1e-3, atol=1e-5, msg=name)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guides", "line"),
    [
        (["weather=confounder"], "weather=confounder given, COLUMN=spurious or COLUMN=informative expected"),
        (["weather"], "weather given, COLUMN=spurious or COLUMN=informative expected"),
        (['{"weather": "spurious"}'], "COLUMN=spurious or COLUMN=informative expected, such as weather=spurious"),
        (["weather=spurious", "weather=informative"], "weather is given twice"),
    ],
)
def test_guides_that_are_written_wrongly_are_refused(guides, line):
    with pytest.raises(UserError, match=f"pretrain_guides: .*{line}"):
        options(pretrain_guides=guides)


def rows(**columns):
    columns = {"id": [f"{i}" for i in range(60)], "label": [i % 2 for i in range(60)], **columns}
    labels = {"label": ClassLabel(names=["None", "Roadwork"])}
    known = {name: Value("string") for name in columns if name != "label"}
    return Dataset.from_dict(columns, features=Features(known | labels))


@pytest.mark.parametrize(
    ("column", "line"),
    [
        ("wether", "pretrain_guides: no column 'wether'; there are weather"),
        ("id", "pretrain_guides: no column 'id'; there are weather"),
        ("label", "pretrain_guides: label is the class itself"),
        ("work", "pretrain_guides: work is the class itself"),
        ("camera", "pretrain_guides: camera has one value, dash, in train, at least two expected"),
        ("empty", "pretrain_guides: empty has no value in train"),
        ("number", "pretrain_guides: number has 60 values, over 50"),
    ],
)
def test_columns_that_cannot_guide_are_refused(column, line):
    data = rows(
        weather=["sun", "rain", ""] * 20,
        work=["no", "yes"] * 30,
        camera=["dash"] * 59 + [""],
        empty=[""] * 60,
        number=[f"n{i}" for i in range(60)],
    )
    check_guides(data, ["weather"])
    with pytest.raises(UserError, match=line):
        check_guides(data, ["weather", column])


def test_train_and_the_pool_together_may_not_have_too_many_kinds():
    parts = [rows(city=[f"a{i % 30}" for i in range(60)]), rows(city=[f"b{i % 30}" for i in range(60)])]
    check_guides(parts[0], ["city"])
    with pytest.raises(UserError, match="city has 60 values in train and unlabelled_name together, at most 50"):
        guides_of(parts, {"city": "spurious"})
    (guide,), numbers = guides_of(parts[:1], {"city": "informative"})
    assert len(guide.kinds) == 30
    assert numbers.shape == (60, 1)


def test_a_pool_without_the_column_is_refused_unless_another_part_of_it_has_it(make_photos, tmp_path):
    bare = tagged(tmp_path / "bare", make_photos, {"x": (20, 200, 90)}, 4, 1, None)
    full = tagged(tmp_path / "full", make_photos, {"x": (20, 90, 200)}, 4, 2, ["sun", "rain"])
    with pytest.raises(UserError, match=r"unlabelled_name has no column 'weather' \(there are .*label"):
        read_pool([str(bare)], guides=["weather"])
    assert read_pool([str(bare), str(full)], guides=["weather"]).rows["weather"][:] == [
        *["unknown"] * 4,
        *["sun", "rain"] * 2,
    ]
