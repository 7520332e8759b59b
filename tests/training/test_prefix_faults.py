"""Faults of the prefix cache: folders, disks, crashes, other versions, budgets, and two processes at once."""

import errno
import json
import signal

import numpy as np
import pytest

from natix_hf import UserError, load_model, load_photos
from natix_hf.inference import feature_store
from natix_hf.inference.features import FixedView
from natix_hf.training import prefix as module
from natix_hf.training.prefix import PrefixPlan, prefix_rows

PLAN = PrefixPlan(blocks=1, views=1, precision="float32", gigabytes=1e-4)


@pytest.fixture
def kept(tiny_backbone, photo_folder, tmp_path, monkeypatch):
    """Calls `prefix_rows` in shards of 8 rows; gives the states of all rows and how many photos were computed."""
    lora = {"lora_last_blocks": 1}
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="lora", image_size=32, lora=lora)
    rows = load_photos(photo_folder).rows("training", step="train")
    config = model.get_base_model().config.backbone_config
    tokens = 1 + config.num_register_tokens + (32 // config.patch_size) ** 2
    computed, states = [], module.prefix_states

    def count(model, pixels, blocks):
        computed.append(len(pixels))
        return states(model, pixels, blocks)

    monkeypatch.setattr(module, "prefix_states", count)

    def keep(folder=tmp_path, views=(None,), plan=PLAN, **options):
        computed.clear()
        monkeypatch.setattr(module, "SHARD_BYTES", 8 * tokens * config.hidden_size * 4)
        found = prefix_rows(model, rows, processor, plan, views=views, cache_dir=folder, batch_size=8, **options)
        return np.stack([found[i]["prefix_states"].numpy() for i in range(len(rows))]), sum(computed)

    return keep


def shards(folder):
    return sorted(folder.rglob("*.npy"))


def test_a_folder_that_cannot_be_written_is_named(kept, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache_dir .*file.* cannot be written"):
        kept(tmp_path / "file")


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(kept, tmp_path, monkeypatch):
    whole, count = kept(tmp_path / "whole")
    real, calls = np.save, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **options)

    monkeypatch.setattr(feature_store.np, "save", full)
    with pytest.raises(UserError, match=r"cannot store prefixes: the disk is full .*what was computed so far is kept"):
        kept()
    first = len(np.load(*shards(tmp_path / "prefixes")))
    states, again = kept()
    assert again == count - first
    np.testing.assert_array_equal(states, whole)


@pytest.mark.parametrize("damage", ["cut short", "empty", "one bit", "list cut short", "list of others", "no list"])
def test_what_is_damaged_is_computed_again_and_never_served(kept, tmp_path, damage):
    whole, _ = kept()
    shard = shards(tmp_path)[0]
    lost, listing = len(np.load(shard)), shard.with_suffix(".json")
    content = bytearray(shard.read_bytes())
    if damage == "cut short":
        shard.write_bytes(content[:-7])
    elif damage == "empty":
        shard.write_bytes(b"")
    elif damage == "one bit":
        content[-6] ^= 0x10
        shard.write_bytes(content)
        lost = 1
    elif damage == "list cut short":
        listing.write_text(listing.read_text()[:-9])
    elif damage == "list of others":
        document = json.loads(listing.read_text())
        document["names"] = document["names"][1:] + document["names"][:1]
        listing.write_text(json.dumps(document))
    else:
        listing.unlink()
    states, again = kept()
    assert again == lost
    np.testing.assert_array_equal(states, whole)
    assert kept()[1] == 0


def test_activations_of_another_version_are_not_read(kept, tmp_path, monkeypatch):
    _, count = kept()
    monkeypatch.setattr(feature_store, "VERSION", feature_store.VERSION + 1)
    assert kept()[1] == count


def test_another_cut_or_precision_has_records_of_its_own(kept, tmp_path):
    first, count = kept()
    deeper, again = kept(plan=PrefixPlan(2, 1, "float32", 1e-4))
    assert again == count
    assert not np.array_equal(deeper, first)
    assert kept(plan=PrefixPlan(1, 1, "bfloat16", 1e-4))[1] == count
    assert kept()[1] == 0


def test_runs_before_make_room_for_this_one_and_its_own_views_stay(kept, tmp_path):
    def views(seed):
        return [FixedView("basic", seed, number) for number in range(2)]

    kept(views=views(0))
    size = sum(path.stat().st_size for path in (tmp_path / "prefixes").rglob("*") if path.is_file()) / 1e9
    plan = PrefixPlan(1, 2, "float32", size)
    kept(views=views(1), plan=plan, budget_gb=size)
    assert len(list((tmp_path / "prefixes").iterdir())) == 2
    assert kept(views=views(1), plan=plan, budget_gb=size)[1] == 0
    with pytest.raises(UserError, match=r"prefix_cache_gb: the prefixes of this run need"):
        kept(views=views(2), plan=PrefixPlan(1, 2, "float32", 0.1 * size), budget_gb=0.1 * size)


# Two processes: the second begins when the first is at work. Prints the exit statuses of both.
WORK = """
import json, os, pathlib, signal, sys, time
import numpy as np, torch
from natix_hf import load_model, load_photos
from natix_hf.inference import features
from natix_hf.training import prefix

kind, backbone, photos, folder, after = *sys.argv[1:5], int(sys.argv[5])
torch.set_num_threads(1)
module, name = (features, "token_parts") if kind == "features" else (prefix, "prefix_states")
real, computed, cache = getattr(module, name), 0, pathlib.Path(folder) / "cache"

def slow(model, pixels, number):
    global computed
    if computed == after:
        os.kill(os.getpid(), signal.SIGKILL)
    computed += len(pixels)
    time.sleep(0.2)
    return real(model, pixels, number)

def work(number):
    if kind == "features":
        features.SHARD_ROWS = 4
        kept = features.frozen_features(model, rows, processor, cache_dir=cache, batch_size=4).table()
    else:
        prefix.SHARD_BYTES = 1  # a row in every shard, but no fewer than a batch
        plan = prefix.PrefixPlan(1, 1, "float32", 1e-4)
        found = prefix.prefix_rows(model, rows, processor, plan, views=[None], cache_dir=cache, batch_size=4)
        kept = np.stack([found[i]["prefix_states"].numpy() for i in range(len(rows))])
    np.save(f"{folder}/{number}.npy", kept)
    pathlib.Path(folder, f"{number}.json").write_text(json.dumps([computed, len(rows)]))

setattr(module, name, slow)
method = {"features": "probe", "prefixes": "lora"}[kind]
lora = {"lora_last_blocks": 1}
model, processor = load_model(backbone, ["None", "Roadwork"], method=method, image_size=32, lora=lora)
rows = load_photos(photos).rows("training", step="train")
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        work(number)
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
    while number == 0 and not list((cache / kind).glob("*/*.json")):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the first process ended before its pass"
        time.sleep(0.01)
    after = -1
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "killed"), [("features", False), ("prefixes", True)], ids=["both live", "the first is killed"]
)
def test_two_processes_share_a_cache_and_compute_everything_once(
    tiny_backbone, photo_folder, tmp_path, launched, kind, killed
):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    words = (kind, str(tiny_backbone), str(photo_folder), str(tmp_path), str(8 if killed else -1))
    result = launched(script, *words, home=tmp_path / "home")
    assert result.status == 0, result.err
    assert json.loads(result.out.splitlines()[-1]) == [-signal.SIGKILL if killed else 0, 0]
    second, rows = json.loads((tmp_path / "1.json").read_text())
    if killed:
        assert second == rows - 8  # two shards were whole
        return
    first, _ = json.loads((tmp_path / "0.json").read_text())
    assert first + second == rows
    np.testing.assert_array_equal(*(np.load(tmp_path / f"{number}.npy") for number in range(2)))
    assert "another run computes them; waiting for it" in result.out
