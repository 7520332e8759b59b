"""Every optimizer against the recurrence of its paper, written out in numpy; groups; what is refused; exact resume."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from natix_hf import NatixTrainingArguments, UserError
from natix_hf.training.optimizers.build_optimizer import build_optimizer, check_optimizer
from natix_hf.training.optimizers.parameter_groups import lr_factor, parameter_groups

A = np.diag([3.0, 1.0, 0.5, 2.0])  # f(w) = w A w / 2 - b w, with gradient A w - b and curvature A
B = np.array([1.0, -2.0, 0.5, 3.0])
START = np.array([1.5, -0.5, 2.0, 0.25])
LR, DECAY = 0.05, 0.1


@pytest.fixture
def arguments(tmp_path):
    """A function that builds training arguments with the keys given."""

    def build(**given) -> NatixTrainingArguments:
        settings = {"learning_rate": LR, "weight_decay": DECAY, "use_cpu": True, "warmup_steps": 0, **given}
        if settings.get("optim") == "schedule_free_adamw":
            settings |= {"ema": False, "lr_scheduler_type": "constant"}
        return NatixTrainingArguments(output_dir=str(tmp_path), **settings)

    return build


class Quadratic(nn.Module):
    """The function above, of a vector in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(START))

    def forward(self) -> torch.Tensor:
        return self.weight @ torch.tensor(A) @ self.weight / 2 - torch.tensor(B) @ self.weight


def iterates(args, steps: int = 3, before_step=None) -> np.ndarray:
    """The first `steps` iterates `(steps, 4)` of a recipe's optimizer on the quadratic."""
    model, found = Quadratic(), []
    optimizer = build_optimizer(model, args, {"weight"}, steps=10)
    for step in range(steps):
        optimizer.zero_grad()
        model().backward()
        if before_step:
            before_step(optimizer, model, step)
        optimizer.step()
        found.append(model.weight.detach().numpy().copy())
    return np.array(found)


def test_lion(arguments):
    w, m, expected = START, np.zeros(4), []
    for _ in range(3):
        g = A @ w - B
        w = w - LR * (np.sign(0.9 * m + 0.1 * g) + DECAY * w)
        m = 0.99 * m + 0.01 * g
        expected.append(w)
    np.testing.assert_allclose(iterates(arguments(optim="lion")), expected, rtol=1e-12)


@pytest.mark.parametrize("warmup", [0, 4])
def test_ademamix_with_its_warm_up_over_the_run(arguments, warmup):
    w, m1, m2, v, expected = START, np.zeros(4), np.zeros(4), np.zeros(4), []
    total = warmup or 10
    for t in range(1, 4):
        g = A @ w - B
        low, high = math.log(0.9), math.log(0.9999)
        beta3 = min(math.exp(low * high / ((1 - t / total) * high + t / total * low)), 0.9999)
        alpha = min(t * 5.0 / total, 5.0)
        m1, m2, v = 0.9 * m1 + 0.1 * g, beta3 * m2 + (1 - beta3) * g, 0.999 * v + 0.001 * g * g
        step = (m1 / (1 - 0.9**t) + alpha * m2) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - LR * (step + DECAY * w)
        expected.append(w)
    found = iterates(arguments(optim="ademamix", optim_args=f"warmup={warmup}"))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_schedule_free_adamw_with_its_own_warm_up_and_both_weights(arguments):
    """y is trained, x is scored; both of Defazio et al., algorithm 1, decay at y."""
    z = x = y = START
    v, squares, expected, averages, seen = np.zeros(4), 0.0, [], [], []
    for t in range(1, 4):
        g = A @ y - B
        v = 0.999 * v + 0.001 * g * g
        rate = LR * min(t / 2, 1)  # two steps of warm-up
        z = z - rate * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + DECAY * y)
        squares += rate**2
        share = rate**2 / squares
        x = (1 - share) * x + share * z
        y = 0.1 * z + 0.9 * x
        expected.append(y)
        averages.append(x)
    args = arguments(optim="schedule_free_adamw")
    args.warmup_steps = 2

    def average(optimizer, model, step):
        optimizer.eval()
        seen.append(model.weight.detach().numpy().copy())
        optimizer.train()

    np.testing.assert_allclose(iterates(args, 3, average), expected, rtol=1e-6)
    np.testing.assert_allclose(seen[1:], averages[:2], rtol=1e-6)


def newton_schulz(matrix: np.ndarray, steps: int = 5) -> np.ndarray:
    """Jordan's quintic iteration towards U V^T, for a matrix that is no taller than wide."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def test_muon_moves_matrices_and_adamw_the_rest(arguments):
    """bfloat16 within the iteration leaves three digits."""
    model = nn.ModuleDict({"hidden": nn.Linear(3, 2).double(), "head": nn.ModuleDict({"linear": nn.Linear(2, 2)})})
    curvature = np.array([1.0, 2.0, 0.5])
    optimizer = build_optimizer(model, arguments(optim="muon"), {"hidden.weight"}, steps=10)
    w, bias = (p.detach().numpy().copy() for p in (model["hidden"].weight, model["hidden"].bias))
    m, a, v = np.zeros((2, 3)), np.zeros(2), np.zeros(2)
    for t in range(1, 4):
        optimizer.zero_grad()
        (model["hidden"].weight ** 2 @ torch.tensor(curvature) / 2).sum().backward()
        model["hidden"].bias.grad = model["hidden"].bias.detach() - 1
        optimizer.step()
        g = w * curvature
        m = 0.95 * m + 0.05 * g
        w = (1 - LR * DECAY) * w - LR * 0.2 * math.sqrt(3) * newton_schulz(0.05 * g + 0.95 * m)
        g = bias - 1
        a, v = 0.9 * a + 0.1 * g, 0.999 * v + 0.001 * g * g
        bias = bias - LR * (a / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(model["hidden"].weight.detach().numpy(), w, atol=2e-3 * t)
        np.testing.assert_allclose(model["hidden"].bias.detach().numpy(), bias, rtol=1e-6)
    matrices = [p for group in optimizer.param_groups if group["matrix"] for p in group["params"]]
    assert len(matrices) == 1  # the last layer's gradient has no more rank than classes but one: AdamW's
    assert matrices[0] is model["hidden"].weight


def test_sophia_clips_newton_steps_with_curvature_of_every_second_step(arguments):
    from natix_hf.training.optimizers.curvature import hutchinson

    noise = np.random.default_rng(0).normal(size=(3, 4))
    w, m, h, expected = START, np.zeros(4), np.zeros(4), []
    for t in range(3):
        g = A @ w - B
        m = 0.96 * m + 0.04 * g
        if t % 2 == 0:
            h = 0.99 * h + 0.01 * noise[t] * (A @ noise[t])
        w = (1 - LR * DECAY) * w - LR * np.clip(m / np.maximum(0.5 * h, 1e-12), -1, 1)
        expected.append(w)

    def estimate(optimizer, model, step):
        if step % 2 == 0:
            found = hutchinson(model(), [model.weight], [torch.tensor(noise[step])])
            optimizer.estimates = [0.5 * e for e in found]

    args = arguments(optim="sophia", optim_args="gamma=0.5,update_period=2")
    np.testing.assert_allclose(iterates(args, 3, estimate), expected, rtol=1e-12)


def test_hutchinson_finds_the_diagonal_on_average():
    """Of a function whose second derivative is not diagonal; weights that it does not know get zero."""
    from natix_hf.training.optimizers.curvature import hutchinson

    torch.manual_seed(0)
    w, other = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2))
    m = torch.randn(5, 5)

    def loss():
        return (torch.tanh(m @ w) ** 2).sum() + w.prod()

    exact = torch.autograd.functional.hessian(lambda x: (torch.tanh(m @ x) ** 2).sum() + x.prod(), w.detach())
    draws = [hutchinson(loss(), [w, other], [torch.randn(5), torch.randn(2)]) for _ in range(3000)]
    mean = torch.stack([d[0] for d in draws]).mean(0)
    spread = torch.stack([d[0] for d in draws]).std(0) / 3000**0.5
    assert ((mean - exact.diag()).abs() < 4 * spread).all()
    assert not draws[0][1].any()


# -- groups -----------------------------------------------------------------------------------------------------------


def described(model: nn.Module, groups: list[dict], rate: float) -> dict[str, tuple[float, bool]]:
    """Parameter name -> (share of the learning rate, whether it decays)."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"] / rate, g["weight_decay"] > 0) for g in groups for p in g["params"]}


BLOCK_PARTS = {
    **{f"attention.{part}_proj.weight": True for part in "qkvo"},
    **{f"attention.{part}_proj.bias": False for part in "qvo"},
    "mlp.up_proj.weight": True,
    "mlp.up_proj.bias": False,
    "mlp.down_proj.weight": True,
    "mlp.down_proj.bias": False,
    **{f"norm{n}.{part}": False for n in (1, 2) for part in ("weight", "bias")},
    **{f"layer_scale{n}.lambda1": False for n in (1, 2)},
}


def test_groups_of_a_tiny_model_in_full(job):
    trainer = job("full", layerwise_lr_decay=0.5)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    found = described(
        trainer.model, parameter_groups(trainer.model, trainer.args, decayed), trainer.args.learning_rate
    )
    expected = {
        "backbone.embeddings.cls_token": (0.125, False),
        "backbone.embeddings.register_tokens": (0.125, False),
        "backbone.embeddings.patch_embeddings.weight": (0.125, True),
        "backbone.embeddings.patch_embeddings.bias": (0.125, False),
        **{f"backbone.model.layer.0.{part}": (0.25, decays) for part, decays in BLOCK_PARTS.items()},
        **{f"backbone.model.layer.1.{part}": (0.5, decays) for part, decays in BLOCK_PARTS.items()},
        "backbone.norm.weight": (1.0, False),
        "backbone.norm.bias": (1.0, False),
        "head.linear.weight": (1.0, True),
        "head.linear.bias": (1.0, False),
    }
    assert found == expected


def test_groups_of_adapters_by_layer_and_matrix_equal_pefts(job):
    """peft's LoRA+ optimizer has the same rates for A and B; it would speed up the head's bias too, the paper not."""
    from peft.optimizers import create_loraplus_optimizer

    trainer = job("lora", loraplus_lr_ratio=16.0)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    rate = trainer.args.learning_rate
    found = described(trainer.model, parameter_groups(trainer.model, trainer.args, decayed), rate)
    theirs = create_loraplus_optimizer(trainer.model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=16.0)
    peft = described(trainer.model, theirs.param_groups, rate)
    assert {n: v[0] for n, v in found.items() if "lora_" in n} == {n: v[0] for n, v in peft.items() if "lora_" in n}
    assert found.keys() == peft.keys()
    head = "base_model.model.head.modules_to_save.default.linear"
    assert found[f"{head}.weight"] == (1.0, True)
    assert found[f"{head}.bias"] == (1.0, False)
    trainer.args.layerwise_lr_decay = 0.5
    found = described(trainer.model, parameter_groups(trainer.model, trainer.args, decayed), rate)
    q = "base_model.model.backbone.model.layer.{}.attention.q_proj.lora_{}.default.weight"
    assert found[q.format(0, "A")] == (0.25, True)
    assert found[q.format(0, "B")] == (4.0, True)
    assert found[q.format(1, "B")] == (8.0, True)


def test_the_rate_that_is_logged_is_the_recipes(job):
    """Whatever the factors, the first group has the full one."""
    trainer = job("lora", loraplus_lr_ratio=16.0, layerwise_lr_decay=0.5)
    groups = parameter_groups(trainer.model, trainer.args, trainer.get_decay_parameter_names(trainer.model))
    assert groups[0]["lr"] == trainer.args.learning_rate


def test_factors_by_name():
    assert lr_factor("backbone.embeddings.cls_token", 12, 0.5, None) == 0.5**13
    assert lr_factor("backbone.model.layer.0.norm1.weight", 12, 0.5, None) == 0.5**12
    assert lr_factor("base_model.model.backbone.model.layer.11.mlp.up_proj.lora_B.default.weight", 12, 0.5, 8) == 4
    assert lr_factor("backbone.norm.weight", 12, 0.5, 8) == 1


@pytest.mark.parametrize(("kind", "each"), [("use_dora", 1), ("use_doran", 2)])
def test_magnitudes_of_dora_and_floors_of_doran_do_not_decay(job, kind, each):
    from natix_hf.modeling.adapters import add_lora

    trainer = job("full")
    model = add_lora(trainer.model, **{kind: True})
    adapters = {name for name, p in model.named_parameters() if p.requires_grad and ".lora_" in name}
    free = {name for name in adapters if "magnitude" in name or "tau" in name}
    assert len(free) == 12 * each  # linears
    decayed = trainer.get_decay_parameter_names(model)
    assert not free & set(decayed)
    assert adapters - free <= set(decayed)


def test_the_matrix_that_ends_b_of_doran_has_the_rate_of_b(job):
    from natix_hf.modeling.adapters import add_lora

    model = add_lora(job("full").model, use_doran=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.rpartition(".")[2] for name in trained if lr_factor(name, 2, 1.0, 8.0) == 8.0} == {"second_b"}


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim": "muonn"}, "did you mean muon"),
        ({"optim": "adamw"}, "did you mean adamw_torch"),
        ({"optim": "sam", "sam_base": "sophia"}, r"sam_base: expected .*, found sophia"),
        ({"optim": "sam", "sam_rho": 0.0}, "sam_rho"),
        ({"layerwise_lr_decay": 0.0}, "layerwise_lr_decay"),
        ({"layerwise_lr_decay": 1.2}, "layerwise_lr_decay"),
        ({"loraplus_lr_ratio": 0.5}, "loraplus_lr_ratio"),
        ({"optim": "schedule_free_sgd"}, "ema: false"),
        ({"optim": "sam", "sam_base": "schedule_free_adamw"}, "lr_scheduler_type: constant"),
    ],
)
def test_settings_that_cannot_be_meant(arguments, given, message):
    with pytest.raises(UserError, match=message) as caught:
        arguments(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "place", "message"),
    [
        ({"optim": "sophia"}, {"attn_implementation": "sdpa"}, "attn_implementation: eager"),
        ({"optim": "sophia", "torch_compile": True}, {}, "torch_compile: false"),
        (
            {
                "optim": "sophia",
                "activation_checkpointing": True,
                "activation_checkpointing_kwargs": {"use_reentrant": True},
            },
            {},
            "leave activation_checkpointing_kwargs out",
        ),
        ({"loraplus_lr_ratio": 16.0}, {"method": "full"}, "method full has none"),
        ({"optim": "lion", "optim_args": "momentum=0.9"}, {}, "no option 'momentum'; it has beta1, beta2"),
        ({"optim": "lion", "optim_args": "beta1=high"}, {}, "expected a number, such as beta1=0.9"),
        ({"optim": "lion", "optim_args": "beta1=1.5"}, {}, "expected a number from 0 to below 1"),
        ({"optim": "adamw_bnb_8bit"}, {}, "bitsandbytes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(arguments, given, place, message):
    with pytest.raises(UserError, match=message) as caught:
        check_optimizer(arguments(**given), **{"method": "lora", "attn_implementation": "eager", **place})
    assert "\n" not in str(caught.value)


def test_muon_without_matrices_is_refused(arguments):
    with pytest.raises(UserError, match="trains only vectors and the last layer"):
        build_optimizer(Quadratic(), arguments(optim="muon"), set(), steps=10)


def test_our_names_stay_in_the_arguments_and_the_recipe(arguments):
    from natix_hf.recipe.yaml_and_command_line import training_values

    args = arguments(optim="sam", sam_base="ademamix")
    assert args.optim == "sam"
    assert training_values(args)["optim"] == "sam"
    assert training_values(args)["sam_base"] == "ademamix"
    assert args.to_dict()["optim"] == "sam"
