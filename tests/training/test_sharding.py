"""Sharded models in one process: pieces, whole tensors, the average of pieces; and what is refused."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from natix_hf import NatixTrainingArguments, UserError
from natix_hf.training.ema import Ema
from natix_hf.training.sharding import check_sharding, fill, keep_precision, own, piece, sketch, whole


@pytest.fixture
def sharded(tmp_path):
    """A small model, the same one sharded over a group of one process, and its sketch."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    plain, empty = copy.deepcopy(model), sketch(model)
    fully_shard(model[0])
    yield plain, fully_shard(model), empty
    dist.destroy_process_group()


def test_a_sketch_holds_no_weights_and_is_filled_with_those_of_the_sharded_model(sharded):
    plain, model, empty = sharded
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    x = torch.randn(5, 4)
    plain(x), model(x)  # moves the running means
    filled = fill(empty, model)
    assert [type(module) for module in filled.modules()] == [type(module) for module in plain.modules()]
    for name, tensor in plain.state_dict().items():
        assert_close(filled.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    assert [p.requires_grad for p in filled.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert_close(filled.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_a_piece_is_what_is_cut_out_of_the_whole(sharded):
    _, model, _ = sharded
    weight = model[2].weight
    new = torch.randn(3, 4)
    own(weight).copy_(piece(new, like=weight))
    assert_close(whole(weight), new, rtol=0, atol=0)
    plain = nn.Parameter(torch.zeros(3, 4))
    own(plain).copy_(piece(new, like=plain))
    assert_close(whole(plain), new, rtol=0, atol=0)


def test_the_average_of_pieces_is_what_the_model_runs_with_even_after_an_evaluation(sharded):
    """The outermost unit keeps its weights together after a forward pass without a backward one."""
    plain, model, _ = sharded
    plain.eval(), model.eval()
    ema, x = Ema(model, 0.5), torch.randn(5, 4)
    with torch.no_grad():
        for shadow in ema.shadow.values():
            shadow.mul_(0.5)
        averaged = copy.deepcopy(plain)
        for parameter in averaged.parameters():
            parameter.mul_(0.5 if parameter.requires_grad else 1)
        assert_close(model(x), plain(x))
        with ema.weights():
            assert_close(model(x), averaged(x))
        assert_close(model(x), plain(x))
        ema.adopt()
        assert_close(model(x), averaged(x))


def test_the_average_follows_a_model_that_is_given_other_parameters_and_only_then(sharded):
    plain, model, _ = sharded
    ema = Ema(plain, 0.5)
    ema.follow(model)
    assert ema.parameters["2.weight"] is model[2].weight
    ema.shadow["2.weight"].zero_()
    ema.follow(model)
    assert not ema.shadow["2.weight"].any()


def test_with_bf16_gradients_are_summed_in_fp32_and_logits_are_not_rounded():
    from accelerate.utils import FullyShardedDataParallelPlugin

    for precision, expected in (("bf16", (torch.bfloat16, torch.float32, None)), (None, None)):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy=precision)
        keep_precision(plugin)
        policy = plugin.mixed_precision_policy
        assert (policy and (policy.param_dtype, policy.reduce_dtype, policy.output_dtype)) == expected


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Build arguments as `accelerate launch` with fsdp2.yaml has them built, but for some settings."""
    tried = {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "ACCELERATE_USE_FSDP": "true"}

    def build(settings=None, **arguments):
        for name, value in (tried | (settings or {})).items():
            monkeypatch.setenv(name, value)
        return NatixTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, **arguments)

    return build


@pytest.mark.parametrize(
    ("settings", "arguments", "told"),
    [
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version: expected 2, found 1"),
        (
            {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"},
            {},
            "fsdp_state_dict_type: expected .*, found SHARDED_STATE_DICT",
        ),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}, "fsdp_cpu_ram_efficient_loading: expected .*, found true"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params: expected .*, found true"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "set activation_checkpointing: true in the recipe instead"),
        ({"FSDP_IGNORED_MODULES": "head"}, {}, "fsdp_ignored_modules: expected none, found head"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "deepspeed is not supported: .*multi_gpu.yaml"),
        ({}, {"optim": "sophia"}, "optim: sophia .*multi_gpu.yaml"),
        ({}, {"optim": "sam"}, "optim: sam "),
        ({}, {"optim": "muon"}, "optim: muon "),
        ({}, {"warm_start": "probe"}, "warm_start: probe"),
        ({}, {"torch_compile": True}, "torch_compile: True"),
        ({}, {"save_only_model": True}, "save_only_model: True"),
        ({}, {"loss": "ce+0.5*supcon"}, r"loss: ce\+0.5\*supcon"),
        ({}, {"fsdp": "full_shard"}, "not supported in a recipe; .*fsdp2.yaml"),
    ],
)
def test_what_does_not_go_with_a_sharded_model_is_refused_in_one_line(launched, settings, arguments, told):
    with pytest.raises(UserError, match=told) as caught:
        launched(settings, **arguments)
    assert "\n" not in str(caught.value)


def test_the_same_options_are_taken_where_nothing_is_sharded(launched, monkeypatch):
    assert launched().sharded
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert not NatixTrainingArguments(output_dir="x", use_cpu=True, optim="muon", warm_start="probe").sharded


def test_a_probe_and_a_prefix_cache_are_refused(launched):
    arguments = launched()
    check_sharding(arguments, "lora")
    with pytest.raises(UserError, match="method probe"):
        check_sharding(arguments, "probe")
    with pytest.raises(UserError, match="prefix_cache_gb"):
        check_sharding(arguments, "lora", prefix_cache_gb=1.0)
    with pytest.raises(UserError, match="use_doran"):
        check_sharding(arguments, "lora", use_doran=True)


def test_an_accelerator_that_shards_nothing_though_it_was_asked_to_is_noticed(job, launched):
    """accelerate makes DDP, or nothing at all, of FSDP on CPUs and in one process."""
    launched()
    with pytest.raises(UserError, match="two or more processes with a GPU each, but this run has 1 on cpu"):
        job("lora")


def test_a_checkpoint_of_a_sharded_model_is_not_resumed_by_another_kind(job):
    trainer = job("full", save_strategy="epoch", num_train_epochs=1)
    trainer.train()
    folder = Path(trainer.args.output_dir) / "checkpoints" / f"checkpoint-{trainer.state.global_step}"
    (folder / "pytorch_model_fsdp.bin").write_bytes(b"")
    with pytest.raises(UserError, match="from a sharded model, but this one is whole"):
        job("full", name="other").train(resume_from_checkpoint=str(folder))
