"""A Hub that refuses or can't be reached: one line that says what to do, exit status 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
from natix_hf.errors import UserError
from natix_hf.modeling.checkpoints import load_backbone
time.sleep = lambda seconds: None  # between two tries of the Hub's client
for name in sys.argv[1:]:
    try:
        load_backbone(name)
    except UserError as error:
        print(error)
    else:
        sys.exit("loaded")
"""


class GatedHub(BaseHTTPRequestHandler):
    """Shows the page of `open/*` repositories, as the Hub does, and refuses every file and every other page."""

    def do_GET(self) -> None:
        body = b""
        if self.path.startswith("/api/models/open/"):
            files = [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]
            page = {"id": "open/model", "sha": "0" * 40, "siblings": files, "gated": "manual", "private": False}
            tree = [{"type": "file", "path": "config.json", "size": 9, "oid": "0" * 40}]
            body = json.dumps(tree if "/tree/" in self.path else page).encode()
            self.send_response(200)
        else:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Quiet."""


@pytest.fixture
def gated_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), GatedHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def messages(endpoint: str, home: Path, *names: str) -> list[str]:
    """What `load_backbone` says to each name in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, *names]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_gated_checkpoint_says_how_to_get_access(gated_hub, tmp_path):
    names = ["closed/model", "open/model"]
    found = messages(gated_hub, tmp_path, *names)
    assert len(found) == 2
    for name, line in zip(names, found):
        assert f"'{name}' is gated and you have no access to it" in line
        assert f"accept its licence at {gated_hub}/{name}" in line
        assert "`hf auth login` or set HF_TOKEN" in line


def test_no_network_is_named_and_a_local_folder_offered(tmp_path):
    found = messages("http://127.0.0.1:9", tmp_path, "facebook/dinov3-vits16-pretrain-lvd1689m")
    assert len(found) == 1
    assert "http://127.0.0.1:9 can't be reached" in found[0]
    assert "local folder" in found[0]


def test_a_checkpoint_on_the_hub_loads_and_only_its_safetensors_are_fetched(loopback_hub, tiny_backbone, tmp_path):
    files = {file.name: file.read_bytes() for file in tiny_backbone.iterdir()} | {"pytorch_model.bin": b"pickle"}
    loopback_hub.add("some/dinov3", files)
    script = SCRIPT.replace('sys.exit("loaded")', 'print("loaded")')
    command = [sys.executable, "-c", script, "some/dinov3", "some/other"]
    environment = loopback_hub.environment(tmp_path)
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded, missing = result.stdout.splitlines()
    assert loaded == "loaded"
    assert "'some/other': neither a folder here nor a model on the Hub" in missing
    assert any(path.endswith("/model.safetensors") for path in loopback_hub.asked("/resolve/"))
    assert not any(path.endswith(".bin") for path in loopback_hub.asked("/resolve/"))
