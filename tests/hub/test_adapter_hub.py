"""An adapter and its base on a Hub, found by their names from fresh processes with an empty cache."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi

from natix_hf.hub.export_forms import export_run
from natix_hf.hub.proof import WITH, WITHOUT, prove
from natix_hf.scenes.photos import encode, scene

PHOTOS = [encode(scene(5, index, (160, 90))) for index in range(3)]


def push(folder, name: str) -> None:
    api = HfApi()
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=folder)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["of our class", "raw"])
def test_a_pushed_adapter_answers_like_its_run(base, hub, make_base, make_run, tmp_path):
    raw = make_base(tmp_path / "raw")
    run = make_run(tmp_path / "run", raw)
    output = tmp_path / "base" if base == "of our class" else None
    export_run(run, "adapter", tmp_path / "adapter", base_id="me/base", base_output=output)
    push(output or raw, "me/base")
    push(tmp_path / "adapter", "me/adapter")
    # Without the package transformers has no class for a raw backbone to be a classifier.
    clients = (WITH, WITHOUT) if output else (WITH,)
    document = prove(run, "me/adapter", photos=PHOTOS, online=True, clients=clients)
    assert document.pushed
    assert [client.logits for client in document.clients] == [0.0] * (1 + len(clients))
