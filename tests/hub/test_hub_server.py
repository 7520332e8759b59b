"""The Hub of the tests against the Hub's own client: what other tests rely on is what `huggingface_hub` sees."""

from __future__ import annotations

import huggingface_hub
import pytest
from hub_state import OTHER, READ, WRITE, sha256
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

WEIGHTS = bytes(range(256)) * 300  # 77 kB, through LFS


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.address, token=WRITE)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits a second and more between two tries."""
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)


def status(call, *args, **kwargs) -> int:
    with pytest.raises(HfHubHTTPError) as error:
        call(*args, **kwargs)
    return error.value.response.status_code


def commit(api: HfApi, content: bytes = b"{}", parent: str | None = None, path: str = "config.json") -> str:
    operations = [CommitOperationAdd(path, content)]
    return api.create_commit("me/x", operations, commit_message="m", parent_commit=parent).oid


def test_a_commit_on_an_old_parent_is_a_conflict_and_changes_nothing(hub, api):
    api.create_repo("me/x")
    parent = api.model_info("me/x").sha
    first = commit(api, b"1", parent)
    assert status(commit, api, b"2", parent) == 412
    assert hub.model("me/x").files == {"config.json": b"1"}
    assert api.model_info("me/x").sha == first
    commit(api, b"2", first)
    assert hub.model("me/x").files == {"config.json": b"2"}


def test_a_repository_is_made_once(api):
    api.create_repo("me/x")
    assert status(api.create_repo, "me/x") == 409
    api.create_repo("me/x", exist_ok=True)
    api.create_repo("me/x", repo_type="dataset")


def test_tags_name_commits_and_are_given_once(api, tmp_path):
    api.create_repo("me/x")
    first = commit(api, b"1")
    api.create_tag("me/x", tag="1.0.0", revision=first)
    commit(api, b"2")
    assert [(tag.name, tag.target_commit) for tag in api.list_repo_refs("me/x").tags] == [("1.0.0", first)]
    assert status(api.create_tag, "me/x", tag="1.0.0") == 409
    for revision, content in (("1.0.0", "1"), ("main", "2"), (first, "1")):
        path = hf_hub_download("me/x", "config.json", revision=revision, endpoint=api.endpoint, cache_dir=tmp_path)
        with open(path) as file:
            assert file.read() == content
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/x", revision="9.9.9")


def test_who_may_do_what(hub, api):
    hub.add("me/open", {"config.json": b"{}"})
    hub.add("me/closed", {"config.json": b"{}"}, private=True)
    stranger = HfApi(endpoint=hub.address, token=False)
    unknown, reader, other = (HfApi(endpoint=hub.address, token=token) for token in ("hf_no", READ, OTHER))
    assert api.whoami()["name"] == "tester"
    assert status(unknown.whoami) == 401
    assert status(unknown.model_info, "me/open") == 401
    assert stranger.model_info("me/open").id == "me/open"
    for one in (stranger, other):
        with pytest.raises(RepositoryNotFoundError):
            one.model_info("me/closed")
    assert reader.model_info("me/closed").private
    assert status(stranger.create_repo, "me/x") == 401
    for one in (reader, other):
        assert status(one.create_repo, "me/x") == 403
        assert status(one.create_tag, "me/open", tag="1.0.0") == 403
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/nothing")


def test_files_of_a_gated_repository_are_for_those_who_have_access(hub, api, tmp_path):
    hub.add("big/model", {"config.json": b"{}"}, gated=True)
    where = {"endpoint": hub.address, "cache_dir": tmp_path}
    assert api.model_info("big/model").gated == "manual"
    for token in (False, READ):
        with pytest.raises(GatedRepoError):
            hf_hub_download("big/model", "config.json", token=token, **where)
    hub.model("big/model").gated = False
    hf_hub_download("big/model", "config.json", token=READ, **where)


def test_an_upload_that_is_cut_is_tried_again_and_taken_up(hub, api):
    api.create_repo("me/x")
    hub.cut_uploads(2)
    commit(api, WEIGHTS, path="model.safetensors")
    assert hub.model("me/x").files["model.safetensors"] == WEIGHTS
    assert len(hub.asked("/_lfs/")) == 3
    hub.cut_uploads()
    with pytest.raises(RuntimeError, match=r"Error while uploading 'b\.safetensors'"):
        commit(api, WEIGHTS[1:], path="b.safetensors")
    assert "b.safetensors" not in hub.model("me/x").files
    hub.cut_uploads(0)
    commit(api, WEIGHTS[1:], path="b.safetensors")
    commit(api, WEIGHTS, path="copy.safetensors")  # the Hub has it
    assert set(hub.uploaded.values()) == {1}
    assert set(hub.uploaded) == {sha256(WEIGHTS), sha256(WEIGHTS[1:])}


def test_a_download_that_is_cut_goes_on_where_it_was(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    hub.add("me/x", {"model.safetensors": WEIGHTS})
    hub.cut_downloads(1)
    path = hf_hub_download("me/x", "model.safetensors", endpoint=hub.address, cache_dir=tmp_path)
    with open(path, "rb") as file:
        assert file.read() == WEIGHTS
    assert hub.ranges == [f"bytes={len(WEIGHTS) // 2}-"]
