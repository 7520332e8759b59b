import hashlib
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import yaml

from natix_hf.errors import UserError
from natix_hf.hub.export_forms import export_run
from natix_hf.inference.batches import logits_of, photo_batches
from natix_hf.inference.classify import load_classifier
from natix_hf.logits import softmax
from natix_hf.scenes.photos import encode, scene
from natix_hf.streetvision import client_files as streetvision
from natix_hf.streetvision.client_files import (
    check_hotkey,
    check_labels,
    check_version,
    detector,
    latency_lines,
    submission,
    submission_lines,
    upgrade_hint,
)

# Well-known development accounts of Substrate, with their public addresses.
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"


@pytest.mark.parametrize("hotkey", [ALICE, BOB])
def test_addresses_of_known_accounts_pass(hotkey):
    assert check_hotkey(hotkey) == hotkey


@pytest.mark.parametrize(
    ("hotkey", "said"),
    [
        (ALICE[:-1] + "Z", "wrong checksum"),
        (ALICE[:10] + ALICE[11] + ALICE[10] + ALICE[12:], "wrong checksum"),  # two letters exchanged
        ("5GrwvaEF", "expected 32 bytes of key, found"),
        ("", "expected 32 bytes of key, found"),
        (ALICE.replace("w", "0"), "'0' is not a letter"),
        ("0x8eaf04151687736326c9fea17e25fc5287613693c912909cb226aa4794f26a48", "'0' is not a letter"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(hotkey, said):
    with pytest.raises(UserError, match=said):
        check_hotkey(hotkey)


def address(prefix: bytes, key: bytes = bytes(range(32))) -> str:
    """An SS58 address with the right checksum."""
    content = prefix + key
    content += hashlib.blake2b(b"SS58PRE" + content).digest()[:2]
    number, text = int.from_bytes(content, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + text
    return "1" * (len(content) - len(content.lstrip(b"\0"))) + text


def two_bytes(prefix: int) -> bytes:
    return bytes([0b01000000 | (prefix & 0b11111100) >> 2, prefix >> 8 | (prefix & 0b11) << 6])


def test_any_key_under_prefix_42_is_a_hotkey():
    for key in (bytes(32), b"\xff" * 32, bytes(range(32)), np.random.default_rng(0).bytes(32)):
        assert check_hotkey(address(b"\x2a", key)) == address(b"\x2a", key)


@pytest.mark.parametrize(
    ("hotkey", "said"),
    [
        # One account, Alice's, as the tools of other networks write it.
        ("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5", "a Polkadot address (SS58 prefix 0)"),
        ("HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F", "a Kusama address (SS58 prefix 2)"),
        (address(b"\x00"), "a Polkadot address (SS58 prefix 0)"),
        (address(bytes([63])), "a Hydration address (SS58 prefix 63)"),
        (address(bytes([41])), "another network's address (SS58 prefix 41)"),
        (address(bytes([43])), "another network's address (SS58 prefix 43)"),
        (address(two_bytes(64)), "another network's address (SS58 prefix 64)"),
        (address(two_bytes(255)), "a Quartz address (SS58 prefix 255)"),
        (address(two_bytes(1284)), "a Moonbeam address (SS58 prefix 1284)"),
        (address(two_bytes(1285)), "a Moonriver address (SS58 prefix 1285)"),
        (address(two_bytes(13116)), "a Bittensor address (SS58 prefix 13116)"),
        (address(two_bytes(16383)), "another network's address (SS58 prefix 16383)"),
        (address(two_bytes(42)), "an invalid address (SS58 prefix 42 in two bytes instead of one)"),
        (address(bytes([46])), "an invalid address (SS58 prefix 46 is reserved)"),
        (address(bytes([47])), "an invalid address (SS58 prefix 47 is reserved)"),
        (address(bytes([128])), "an invalid address (first byte 128 is reserved)"),
        (address(bytes([200, 1])), "an invalid address (first byte 200 is reserved)"),
        (address(bytes([255])), "an invalid address (first byte 255 is reserved)"),
        (address(b"\x2a", bytes(33)), "expected 32 bytes of key, found 33"),
        (address(b"\x2a", bytes(8)), "expected 32 bytes of key, found 8"),
    ],
)
def test_addresses_of_other_networks_are_refused_by_name(hotkey, said):
    with pytest.raises(UserError, match=re.escape(f"--hotkey {hotkey}: {said}")) as error:
        check_hotkey(hotkey)
    assert len(str(error.value).splitlines()) == 1
    assert "expected" in said or "hotkeys have prefix 42" in str(error.value)


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "1.0.0 ", ""])
def test_versions_that_are_not_three_numbers_are_refused(version):
    with pytest.raises(UserError, match="--model_version"):
        check_version(version)


def test_labels_are_those_that_clients_read_in_their_order():
    check_labels(["None", "Roadwork"])
    for labels in (["Roadwork", "None"], ["none", "roadwork"], ["None", "Roadwork", "Other"]):
        with pytest.raises(UserError, match="StreetVision reads the class 'Roadwork'"):
            check_labels(labels)


def test_the_two_files_hold_what_the_network_asks_for():
    now = datetime(2026, 11, 25, tzinfo=UTC)
    assert submission("roadwork", "Sorts photos.", hotkey=ALICE, version="1.2.3", now=now) == {
        "model_name": "roadwork",
        "description": "Sorts photos.",
        "version": "1.2.3",
        "submitted_by": ALICE,
        "submission_time": 1795564800,
    }
    text = detector("me/roadwork")
    for told in (
        "base_miner/detectors/configs/ (since 2026-05 natix/miner/detectors/configs/)",
        "IMAGE_DETECTOR=ViT and IMAGE_DETECTOR_CONFIG=detector.yaml",
    ):
        assert told in text
        assert any(told in line for line in submission_lines())
    assert any("model_card.json" in line and "since 2026-02 no code" in line for line in submission_lines())
    assert yaml.safe_load(text) == {
        "hf_repo": "me/roadwork",
        "config_name": "config.json",
        "weights": "model.safetensors",
    }


def test_another_probability_or_other_labels_at_the_client_stop_everything(monkeypatch):
    def client(answers, versions):
        measured = streetvision.ClientCheck([], 2, versions, np.nan)
        monkeypatch.setattr(streetvision, "_call", lambda *_, **__: (answers, measured))

    client([{"None": 0.4, "Roadwork": 0.6}], {})
    assert streetvision.check_client("x", [b""], [0.60005]).difference == pytest.approx(5e-5)
    with pytest.raises(UserError, match="photo 0 of the proof gets a probability that differs"):
        streetvision.check_client("x", [b""], [0.5])
    for answers in ([np.nan], [0.5, np.nan], [np.nan, 0.5]):
        versions = {"transformers": "5.24.0", "torch": "2.14.1", "timm": "1.0.22"}
        client([{"None": 0.5, "Roadwork": p} for p in answers], versions)
        with pytest.raises(UserError, match=r"differs by nan .*with transformers 5: timm 1\.0\.31"):
            streetvision.check_client("x", [b""] * len(answers), [0.5] * len(answers))
    client([{"LABEL_0": 0.4, "LABEL_1": 0.6}], {})
    with pytest.raises(UserError, match="a client gets the labels LABEL_0, LABEL_1"):
        streetvision.check_client("x", [b""], [0.6])


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ("transformers 4.45.2", True),
        ("transformers 4.55.4, torch 2.6.0, timm 1.0.31", True),
        ("transformers 4.56.0, torch 2.2.0, timm 1.0.22", True),
        ("transformers 4.56.0, torch 2.5.1, timm 1.0.22", True),
        ("transformers 4.56.0, torch 2.6.0, timm 1.0.21", True),
        ("transformers 5.24.0, torch 2.14.1, timm 1.0.22", True),  # logits were NaN
        ("transformers 4.56.0, torch 2.6.0, timm 1.0.22", False),
        ("transformers 5.24.0, torch 2.14.1, timm 1.0.31", False),
        ("transformers 5.24.0", False),
    ],
)
def test_a_client_that_is_too_old_is_told_the_smallest_upgrade(tmp_path, versions, told):
    said = "whatever it said first"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{versions}: ValueError: {said}' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="whatever it said first") as error:
        streetvision.check_client(tmp_path, [b""], [0.5], python=python)
    assert len(str(error.value).splitlines()) == 1
    line = "the network pins transformers 4.45.2, which supports neither"
    assert (line in str(error.value)) is told
    assert ("transformers 4.56.0 with torch 2.6.0 and timm 1.0.22" in str(error.value)) is told


@pytest.mark.parametrize(
    "said",
    [  # what transformers 4.45.2 and 4.55.4 said to a stock export
        "The checkpoint you are trying to load has model type `timm_wrapper` but Transformers does not recognize this "
        "architecture. This could be because of an issue with the checkpoint",
        "Unrecognized image processor in stock. Should have a `image_processor_type` key in its preprocessor_config",
        # where torch is too old, or beside a numpy that it does not know
        "module 'torch.compiler' has no attribute 'is_exporting'",
        "AutoModel requires the PyTorch library but it was not found in your environment",
        "Numpy is not available",
    ],
)
def test_other_clients_that_are_too_old_are_told_apart_from_other_faults(said):
    assert "transformers 4.56.0 with torch 2.6.0" in upgrade_hint(
        f"proof: client_python could not load the export: ValueError: {said}"
    )
    assert not upgrade_hint("proof: client_python: logits: expected to differ by at most 0.001, found up to 0.3")


def test_latency_over_the_limit_is_marked():
    row = streetvision.Latency(width=224, height=224, at_once=4, requests=16, p50=1.0, p99=10.0)
    lines = latency_lines(streetvision.ClientCheck([row], cores=2, versions={}, difference=1e-7))
    assert lines[1].endswith("OVER THE LIMIT")


@pytest.mark.slow
def test_the_network_s_form_of_call_answers_like_the_run(make_base, make_run, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", make_base(tmp_path / "base"))
    export_run(run, "stock", tmp_path / "stock")
    photos = [encode(scene(5, index, (160, 90))) for index in range(3)]
    model, processor = load_classifier(str(run))
    logits = [logits_of(model, batch.pixels) for batch in photo_batches(photos, processor)]
    expected = softmax(np.concatenate(logits))[:, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = streetvision.check_client(tmp_path / "stock", photos, expected, seconds=0.0)
    assert found.difference < 1e-6
    sizes = [(row.width, row.height, row.at_once) for row in found.latency]
    assert sizes == [(224, 224, 1), (224, 224, 4), (1920, 1080, 1), (1920, 1080, 4)]
    for row in found.latency:
        assert 0 < row.p50 <= row.p99
        assert row.requests >= 4
    export_run(run, "merged", tmp_path / "merged")  # remote code, which the network's clients do not ask for
    with pytest.raises(UserError, match=r"StreetVision: the network's client fails: transformers 5\."):
        streetvision.check_client(tmp_path / "merged", photos, expected, seconds=0.0)
