"""What all tests share: one thread per worker, no network, tiny checkpoints and photos made on the spot."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlparse

# Set before torch is imported: two pytest workers on two cores must not fight over threads, and nothing may reach the
# Hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRACKIO_DISABLE_TELEMETRY"] = "1"

import numpy as np
import pytest
from PIL import Image

LOOPBACK = Path(__file__).resolve().parents[2] / "shared" / "tools" / "loopback_hub.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine-wide store (feature cache, count of test reads) of a test is its own."""
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random DINOv3 of 2 layers, 32 wide, 4 registers, 32 px photos, and its image processor."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    folder = tmp_path_factory.mktemp("tiny-backbone")
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_register_tokens=4,
        patch_size=16,
        image_size=32,
        layerscale_value=1.0,
    )
    DINOv3ViTModel(config).save_pretrained(folder)
    DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_photos(folder: Path, classes: dict[str, tuple[int, int, int]], count: int, seed: int = 0) -> Path:
    """Class folders of `count` JPEGs each (64x48): noise around the class's colour."""
    rng = np.random.default_rng(seed)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(colour, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.jpg", quality=90)
    return folder


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Class folders `None` and `Roadwork` with 24 photos each; the classes differ in colour."""
    return write_photos(tmp_path / "photos", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 24)


@pytest.fixture(scope="session")
def make_photos():
    """The function that writes class folders, for tests that need other classes or counts."""
    return write_photos


@pytest.fixture
def loopback_hub():
    """A Hub on this machine, taught to list folders: `load_dataset` asks for them, uploads of models do not.

    Yields the Hub's module with its `address`; `REPOS` holds what was pushed.
    """
    if not LOOPBACK.is_file():
        pytest.skip("needs ../shared/tools/loopback_hub.py")
    spec = importlib.util.spec_from_file_location("loopback_hub", LOOPBACK)
    hub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hub)

    class Listing(hub.H):
        def any(self) -> None:
            url = urlparse(self.path)
            route = re.match(r"^/api/datasets/([^/]+/[^/]+)/(tree|paths-info)/[^/]+/?(.*)$", unquote(url.path))
            if not route or ("dataset", route[1]) not in hub.REPOS:
                return super().any()
            body = self.body()
            files = hub.REPOS["dataset", route[1]]["files"]
            folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
            entries = {path: {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders}
            for path, file in files.items():
                entries[path] = {"type": "file", "path": path, "size": file["size"], "oid": file["oid"]}
                if "lfs" in file:
                    entries[path]["lfs"] = {"oid": file["lfs"], "size": file["size"], "pointerSize": 130}
            if route[2] == "paths-info":
                asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
                return self.send(200, [entries[path] for path in asked if path in entries])
            top = PurePosixPath(route[3])
            whole = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
            inside = [
                e
                for p, e in sorted(entries.items())
                if top in (PurePosixPath(p).parents if whole else [PurePosixPath(p).parent])
            ]
            if not inside:
                return self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return self.send(200, inside)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()
