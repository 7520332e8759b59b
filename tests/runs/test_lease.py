"""A lease is held by one process at a time, whoever dies, sleeps or comes at the same moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import pytest

from natix_hf.runs.lease import STALE, Holder, Lease, _move_aside, _seen, holder, take, waited_for


def older(path, seconds: float) -> None:
    """Make a lease look as if it had last been renewed so long ago."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def of_another_machine(path, seconds: float = 0) -> str:
    """Write the lease of a process elsewhere."""
    text = json.dumps({"host": "elsewhere", "pid": 1, "machine": "another boot", "id": "a"})
    path.write_text(text)
    older(path, seconds)
    return text


def test_the_second_is_told_who_holds_it_until_it_is_given_back(tmp_path):
    path = tmp_path / "leases" / "run"
    lease = take(path)
    assert isinstance(lease, Lease)
    held = take(path)
    assert held == holder(path) == Holder(os.uname().nodename, os.getpid())
    assert str(held) == f"{os.uname().nodename} pid {os.getpid()}"
    assert lease.renew()
    lease.release()
    assert holder(path) is None
    assert isinstance(take(path), Lease)


def test_one_that_is_not_renewed_is_taken_over_and_its_holder_finds_out(tmp_path, monkeypatch):
    def clock() -> float:
        raise AssertionError("clocks of machines differ: only times of files may be compared")

    monkeypatch.setattr(time, "time", clock)
    path = tmp_path / "run"
    lease = take(path)
    older(path, STALE - 30)
    assert isinstance(take(path), Holder)
    assert lease.renew()
    older(path, STALE + 30)
    assert isinstance(take(path), Lease)
    assert not lease.renew()
    lease.release()  # somebody else's now
    assert isinstance(take(path), Holder)


def test_a_lease_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path):
    path = tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(target=take, args=(path,))
    process.start()
    process.join()
    assert path.is_file()
    assert holder(path) is None
    assert isinstance(take(path), Lease)


def test_one_whose_holder_died_while_writing_it_counts_until_it_is_stale(tmp_path):
    path = tmp_path / "run"
    path.touch()
    assert take(path) == Holder("an unknown host", 0)
    older(path, STALE + 30)
    assert isinstance(take(path), Lease)


def test_a_fresh_lease_that_was_moved_by_mistake_is_put_back(tmp_path):
    path = tmp_path / "run"
    of_another_machine(path, STALE + 30)
    seen = _seen(path)
    taken = take(path)  # another process is quicker
    _move_aside(path, seen)
    assert taken.renew()
    older(path, 1)
    seen = _seen(path)
    assert taken.renew()  # it had only been slow
    _move_aside(path, seen)
    assert taken.renew()
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_of_many_that_find_a_stale_lease_one_gets_it(tmp_path):
    fork = multiprocessing.get_context("fork")

    def contend(path, barrier, results):
        barrier.wait()
        results.put(isinstance(take(path), Lease))
        barrier.wait()  # alive until all have tried: the lease of a dead process is free

    for turn in range(10):
        path = tmp_path / str(turn)
        of_another_machine(path, STALE + 30)
        barrier, results = fork.Barrier(6), fork.SimpleQueue()
        processes = [fork.Process(target=contend, args=(path, barrier, results)) for _ in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert sum(results.get() for _ in processes) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_held_for_a_moment_is_given_back(tmp_path, broken):
    path = tmp_path / "tables"
    try:
        with waited_for(path):
            assert holder(path)
            assert not broken or 1 / 0
    except ZeroDivisionError:
        pass
    assert holder(path) is None
