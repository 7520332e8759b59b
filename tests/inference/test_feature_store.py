"""The store of a cache with arrays alone: budgets, what other runs and crashes left, limits of the system."""

import json
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from natix_hf import UserError
from natix_hf.inference import feature_store
from natix_hf.inference.feature_store import FeatureStore

ROWS = 64  # of a shard; each of 1000 float32, so that lists weigh little
SHARD = ROWS * 4000 / 1e9


def names(data):
    return [f"{data}-{row}" for row in range(ROWS)]


def values(number):
    return np.full((ROWS, 1000), number, np.float32) + np.arange(ROWS, dtype=np.float32)[:, None]


def ask(folder, data, *, key="a0", budget=None, ours=None, length=1000):
    """Do as a pass does, for one shard; gives the store and whether the records had to be computed."""
    store = FeatureStore(folder, key, shape=(length,), budget_gb=budget, ours=ours)
    found, computed = store.find(names(data)), False
    if len(found) < ROWS:
        with store.writing():
            store.make_room(ROWS)
            store.add(names(data), values(data)[:, :length])
            found |= store.find(set(names(data)) - found.keys())
        computed = True
    store.touch()
    for row, name in enumerate(names(data)):
        shard, place = found[name]
        np.testing.assert_array_equal(shard[place][-length:], values(data)[row, :length])
    return store, computed


def kept(folder):
    """The data sets whose shards are there."""
    return {json.loads(path.read_text())["names"][0].partition("-")[0] for path in folder.glob("features/*/*.json")}


def age(folder, data, seconds):
    """Let the shards of a data set have been asked for so much earlier."""
    for path in folder.glob("features/*/*.json"):
        if json.loads(path.read_text())["names"][0] == f"{data}-0":
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def test_photos_of_another_data_set_under_the_same_key_make_room_those_asked_for_longest_first(tmp_path):
    ask(tmp_path, 1), ask(tmp_path, 2), ask(tmp_path, 3)
    age(tmp_path, 1, 10), age(tmp_path, 2, 20), age(tmp_path, 3, 30)
    ask(tmp_path, 3)  # asked for again
    ask(tmp_path, 4, budget=3.5 * SHARD)
    assert kept(tmp_path) == {"1", "3", "4"}
    _, computed = ask(tmp_path, 1, budget=3.5 * SHARD)
    assert not computed


def test_what_a_run_reads_makes_no_room_for_its_next_records(tmp_path):
    run = set()
    ask(tmp_path, 9)
    ask(tmp_path, 1, ours=run), ask(tmp_path, 2, ours=run, key="b0")
    age(tmp_path, 1, 100), age(tmp_path, 2, 100)
    ask(tmp_path, 3, ours=run, key="c0", budget=3.5 * SHARD)
    assert kept(tmp_path) == {"1", "2", "3"}
    with pytest.raises(UserError, match=r"cache_gb: the features of this run need 0\.001 GB, 0\.000896 GB are"):
        ask(tmp_path, 4, ours=run, key="d0", budget=3.5 * SHARD)
    assert kept(tmp_path) == {"1", "2", "3"}  # refused before anything is removed


def test_longer_records_that_serve_a_run_stay_while_it_computes_the_others(tmp_path):
    longer = FeatureStore(tmp_path, "a0", shape=(1200,))
    with longer.writing():
        for data in (1, 2):
            longer.add(names(data), np.concatenate([np.zeros((ROWS, 200), np.float32), values(data)], axis=1))
    run = set()
    _, computed = ask(tmp_path, 1, ours=run)
    assert not computed
    _, computed = ask(tmp_path, 3, ours=run, budget=2.3 * SHARD)
    assert computed
    assert kept(tmp_path) == {"1", "3"}


def test_a_folder_in_which_another_run_writes_makes_no_room(tmp_path):
    other, _ = ask(tmp_path, 1, key="b0")
    with other.writing():
        ask(tmp_path, 2, budget=1.5 * SHARD)
        assert kept(tmp_path) == {"1", "2"}
    ask(tmp_path, 3, budget=1.5 * SHARD)
    assert kept(tmp_path) == {"3"}


def test_what_a_killed_pass_and_damage_left_does_not_stay(tmp_path):
    store, _ = ask(tmp_path, 1)
    ask(tmp_path, 2), ask(tmp_path, 3)
    of = {json.loads(path.read_text())["names"][0][0]: path for path in store.folder.glob("*.json")}
    content = of["1"].with_suffix(".npy").read_bytes()
    of["1"].with_suffix(".npy").write_bytes(content[:-50])
    of["2"].unlink()
    (store.folder / ".left.1.tmp.npy").write_bytes(content)
    for data in (1, 2, 3):
        assert ask(tmp_path, data)[1] == (data < 3)
    assert len(list(store.folder.glob("*.npy"))) == len(list(store.folder.glob("*.json"))) == 3
    assert kept(tmp_path) == {"1", "2", "3"}


def test_a_cache_that_can_only_be_read_serves(tmp_path, monkeypatch):
    store, _ = ask(tmp_path, 1)
    (store.folder / ".asked").unlink()
    (store.folder / ".asked").mkdir()  # cannot be written, whoever asks

    def refuse(*_):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(feature_store.os, "utime", refuse)
    assert not ask(tmp_path, 1)[1]


@pytest.mark.parametrize(
    ("error", "free", "said"),
    [
        (OSError(28, "No space left on device"), 10**9, "the disk is full"),
        (OSError("64000 requested and 4096 written"), 4096, "the disk is full"),  # as numpy says it
        (OSError(122, "Disk quota exceeded"), 10**12, "Disk quota exceeded"),
        (OSError("64000 requested and 4096 written"), 10**12, "64000 requested and 4096 written"),
    ],
)
def test_the_reason_why_nothing_could_be_stored_is_given(tmp_path, monkeypatch, error, free, said):
    def save(path, _):
        path.write_bytes(b"a part of it")
        raise error

    monkeypatch.setattr(feature_store.np, "save", save)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(UserError, match=f"cache_dir .*: cannot store features: {said}.*what was computed so far"):
        ask(tmp_path, 1)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_read_only_file_system_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    for name in ("open", "mkdir", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(UserError, match=r"cache_dir .* cannot be written: Read-only file system: choose"):
        ask(tmp_path, 1)


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(28, "No space left on device")])
def test_a_file_system_without_locks_or_room_for_one_is_one_line(tmp_path, monkeypatch, error):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(feature_store.FileLock, "acquire", acquire)
    with pytest.raises(UserError, match=r"cache_dir .* cannot be written or locked: .*: choose another folder"):
        ask(tmp_path, 1)


@pytest.mark.parametrize("more", [True, False], ids=["the limit can be raised", "it cannot"])
def test_more_shards_than_a_process_may_hold_open(tmp_path, monkeypatch, more):
    shards, open_now = 40, len(os.listdir("/dev/fd"))
    store = FeatureStore(tmp_path, "a0", shape=(3,))
    for number in range(shards):
        store.add([str(number)], np.full((1, 3), number, np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not more:
        real = resource.getrlimit
        monkeypatch.setattr(feature_store.resource, "getrlimit", lambda kind: (real(kind)[0], real(kind)[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
    try:
        if more:
            found = store.find({str(number) for number in range(shards)})
            assert {name: shard[row][0] for name, (shard, row) in found.items()} == {
                str(number): number for number in range(shards)
            }
        else:
            with pytest.raises(UserError, match=r"may open \d+ files only, and each shard of the cache is one"):
                store.find({str(number) for number in range(shards)})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(Path(store.folder).glob("*.npy"))) == shards  # none of them counts as damaged
