"""What the Hub on this machine (`hub_server.py`) holds: repositories with commits and tags, tokens, planned faults."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITE, READ, OTHER = "hf_WriteSecret", "hf_ReadSecret", "hf_OtherSecret"
# Who holds a token, what it may do, and whose repositories it may do it to.
TOKENS = {
    WRITE: ("tester", "write", ("tester", "me")),
    READ: ("tester", "read", ()),
    OTHER: ("other", "write", ("other",)),
}


def git_id(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Files of every commit by the commit's id, the newest of which is `head`."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)  # sha256 of contents that came through LFS

    def __post_init__(self) -> None:
        self.commit({}, "initial commit")

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    @property
    def files(self) -> dict[str, bytes]:
        """Path -> content at the head."""
        return self.commits[self.head]

    def commit(self, files: Mapping[str, bytes], message: str) -> str:
        """Replace all files; returns the commit's id."""
        text = repr((len(self.commits), message, sorted((path, sha256(data)) for path, data in files.items())))
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = dict(files)
        self.messages.append(message)
        return name

    def at(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit id names."""
        revision = self.head if revision == "main" else self.tags.get(revision, revision)
        return revision if revision in self.commits else None


class Hub:
    """The state behind the server; `address` is where it listens."""

    def __init__(self) -> None:
        self.address = ""
        self.tokens = dict(TOKENS)
        self.lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget everything but the address."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploaded: Counter[str] = Counter()  # sha256 -> how often it arrived whole
        self.ranges: list[str] = []
        self.refusals: list[dict[str, Any]] = []
        self.cuts = {"PUT": 0, "GET": 0}
        self.whole_before_cut = {"PUT": 0, "GET": 0}

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        return self.repositories["dataset", name]

    def add(self, name: str, files: Mapping[str, bytes] | Path, kind: str = "model", **options: Any) -> Repository:
        """A repository with these files, or with those of a folder."""
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()
            }
        repository = self.repositories[kind, name] = Repository(**options)
        if files:
            repository.commit(files, "files")
        return repository

    def asked(self, word: str) -> list[str]:
        """Paths of the requests that hold a word."""
        return [path for _, path in self.requests if word in path]

    def answer(self, word: str, status: int, times: int = 10**6, **headers: str) -> None:
        """Answer requests whose path holds `word` with a status, the first `times` of them."""
        self.refusals.append({"word": word, "status": status, "left": times, "headers": headers})

    def cut_uploads(self, times: int = 10**6, after: int = 0) -> None:
        """Break the connection in the middle of an upload, so many times, once `after` files have arrived whole."""
        self.cuts["PUT"], self.whole_before_cut["PUT"] = times, after

    def cut_downloads(self, times: int) -> None:
        """The same of a file that a client fetches (of more than 4 kB)."""
        self.cuts["GET"], self.whole_before_cut["GET"] = times, 0

    def cuts_now(self, method: str) -> bool:
        with self.lock:
            if self.whole_before_cut[method] > 0:
                self.whole_before_cut[method] -= 1
                return False
            self.cuts[method] -= 1
            return self.cuts[method] >= 0

    def environment(self, home: Path, token: str | None = WRITE) -> dict[str, str]:
        """The environment of a process whose Hub this is, with an empty cache in `home` and nobody else's login."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        return {**plain, **own, **({"HF_TOKEN": token} if token else {})}
