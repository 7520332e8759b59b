"""A Hub on this machine: models and data sets over the HTTP API that huggingface_hub 2.4 speaks, without xet.

Repositories with commits, tags, privacy and gates live in memory. Clients need HF_ENDPOINT and HF_HUB_DISABLE_XET=1:
`Hub.environment`. What tests ask for beside good answers: `Hub.answer` refuses requests, `Hub.cut_uploads` and
`Hub.cut_downloads` break connections in the middle of a file. Knows nothing of natix_hf.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from hub_state import Hub, Repository, git_id, sha256

LARGE = (".safetensors", ".bin", ".pt", ".jpg", ".png", ".parquet", ".arrow", ".onnx")  # go through LFS at any size
SMALL = 10_000  # bytes of the largest other file that travels in the commit itself
ROUTE = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)"
    r"(?:/(preupload|commit|tree|revision|paths-info|tag)/([^/]+)/?(.*)|/(refs))?"
)


class Handler(BaseHTTPRequestHandler):
    """One request; `hub` is set by `serve`."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def send(self, status: int, content: Any = None, headers: Mapping[str, str] | None = None) -> None:
        raw = isinstance(content, bytes)
        body = content if raw else json.dumps({} if content is None else content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if raw else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, error: str, code: str | None = None, **headers: str) -> None:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send(status, {"error": error}, headers | ({"X-Error-Code": code} if code else {}))

    def read(self) -> bytes:
        if not self.headers.get("Transfer-Encoding"):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reset(self) -> None:
        """End the connection as a broken line does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)

    def any(self) -> None:
        url = urlparse(self.path)
        path, hub = unquote(url.path), self.hub
        hub.requests.append((self.command, path))
        blob = re.fullmatch(r"/_lfs/([0-9a-f]{64})", path)
        if blob and hub.cuts["PUT"] and hub.cuts_now("PUT"):
            self.rfile.read(int(self.headers.get("Content-Length") or 2) // 2)
            return self.reset()
        body = self.read()
        for refusal in hub.refusals:
            if refusal["word"] in path and refusal["left"]:
                refusal["left"] -= 1
                return self.refuse(refusal["status"], "refused by the test", **refusal["headers"])
        if blob:  # a signed address: no token goes with it
            if sha256(body) != blob[1]:
                return self.refuse(400, "other content than announced")
            with hub.lock:
                hub.blobs[blob[1]] = body
                hub.uploaded[blob[1]] += 1
            return self.send(200)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            text = "Invalid credentials in Authorization header"
            return self.refuse(401, text, X_Error_Message=text)
        self.user, self.role, self.owners = hub.tokens.get(token, (None, None, ()))
        with hub.lock:
            self.route(path, {name: values[-1] for name, values in parse_qs(url.query).items()}, body)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = any

    def route(self, path: str, query: dict[str, str], body: bytes) -> None:
        if path == "/api/whoami-v2":
            if self.user is None:
                return self.refuse(401, "Invalid username or password.")
            owners = [{"name": name} for name in self.owners if name != self.user]
            token = {"accessToken": {"role": self.role, "displayName": "test"}}
            return self.send(200, {"type": "user", "name": self.user, "auth": token, "orgs": owners})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            if self.reachable((found[1] or "models")[:-1], found[2], writes=True):
                self.batch(json.loads(body)["objects"])
            return None
        if found := ROUTE.fullmatch(path):
            kind, name, action, revision, rest, refs = found.groups()
            writes = action in ("preupload", "commit", "tag")
            repository = self.reachable(kind[:-1], name, writes=writes)
            if repository is None:
                return None
            if refs:
                heads = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}]
                tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in repository.tags.items()]
                return self.send(200, {"branches": heads, "converts": [], "tags": tags})
            return self.repository(repository, name, action, revision or "main", rest, query, body)
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = self.reachable((found[1] or "models")[:-1], found[2])
            return None if repository is None else self.file(repository, found[3], found[4])
        return self.refuse(404, f"no route {self.command} {path}")

    def reachable(self, kind: str, name: str, writes: bool = False) -> Repository | None:
        """The repository, if this token may do that to it; else the refusal has been sent."""
        repository = self.hub.repositories.get((kind, name))
        mine = name.partition("/")[0] in self.owners or (self.role == "read" and self.user == "tester")
        if repository is None or (repository.private and not mine):
            if self.user is None:  # the Hub does not tell strangers what there is
                self.refuse(401, "Invalid username or password.", "RepoNotFound")
            else:
                self.refuse(404, "Repository not found", "RepoNotFound")
        elif writes and self.user is None:
            self.refuse(401, "Invalid username or password.")
        elif writes and name.partition("/")[0] not in self.owners:
            self.refuse(403, "You don't have the rights to write to this repository with this token")
        else:
            return repository
        return None

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        key = (asked.get("type") or "model", name)
        prefix = "datasets/" if key[0] == "dataset" else ""
        address = f"{self.hub.address}/{prefix}{name}"
        if self.user is None:
            return self.refuse(401, "Invalid username or password.")
        if name.partition("/")[0] not in self.owners:
            return self.refuse(403, f"You don't have the rights to create a {key[0]} under this namespace")
        if key in self.hub.repositories:
            return self.send(409, {"error": "You already created this repo", "url": address})
        self.hub.repositories[key] = Repository(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        return self.send(200, {"url": address, "name": name, "id": name})

    def batch(self, objects: list[dict[str, Any]]) -> None:
        """Where to put large files; nowhere for those that are here already."""
        answer = []
        for one in objects:
            entry = {"oid": one["oid"], "size": one["size"], "authenticated": True}
            if one["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.address}/_lfs/{one['oid']}", "header": {}}}
            answer.append(entry)
        self.send(200, {"transfer": "basic", "objects": answer}, {"Content-Type": "application/vnd.git-lfs+json"})

    def repository(
        self, repository: Repository, name: str, action: str | None, revision: str, rest: str, query: dict, body: bytes
    ) -> None:
        commit = repository.at(revision)
        if commit is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = repository.commits[commit]
        if action == "preupload":
            return self.send(200, {"files": [self.mode(files, one) for one in json.loads(body)["files"]]})
        if action == "commit":
            return self.commit(repository, name, [json.loads(line) for line in body.decode().splitlines()])
        if action == "tag":
            asked = json.loads(body)
            if asked["tag"] in repository.tags:
                return self.refuse(409, "Reference already exists")
            repository.tags[asked["tag"]] = commit
            return self.send(200)
        if action in ("tree", "paths-info"):
            entries = self.entries(repository, files)
            if action == "paths-info":
                asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
                return self.send(200, [entries[path] for path in asked if path in entries])
            top, whole = PurePosixPath(rest), query.get("recursive", "false").lower() == "true"
            inside = [
                entry
                for path, entry in sorted(entries.items())
                if top in (PurePosixPath(path).parents if whole else [PurePosixPath(path).parent])
            ]
            if not inside and rest:
                return self.refuse(404, "Entry not found", "EntryNotFound")
            return self.send(200, inside)
        about = {"_id": "0", "id": name, "modelId": name, "sha": commit, "private": repository.private}
        about |= {"gated": "manual" if repository.gated else False, "tags": [], "downloads": 0, "likes": 0}
        about |= {"createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z"}
        return self.send(200, about | {"siblings": [{"rfilename": path} for path in sorted(files)]})

    def mode(self, files: Mapping[str, bytes], one: dict[str, Any]) -> dict[str, Any]:
        """Whether a file goes through LFS, and what lies under its name."""
        large = one["size"] > SMALL or one["path"].endswith(LARGE)
        held = files.get(one["path"])
        oid = None if held is None else sha256(held) if large else git_id(held)
        return {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def commit(self, repository: Repository, name: str, lines: list[dict[str, Any]]) -> None:
        """All changes or none."""
        files = dict(repository.files)
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, repository.head):
                    return self.refuse(412, "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.refuse(400, f"{value['path']}: its content was never uploaded")
                files[value["path"]] = self.hub.blobs[value["oid"]]
                repository.large.add(value["oid"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                inside = value["path"].rstrip("/") + "/"
                files = {path: data for path, data in files.items() if not path.startswith(inside)}
        oid = repository.commit(files, message)
        return self.send(
            200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/{name}/commit/{oid}"}
        )

    def entries(self, repository: Repository, files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
        """Path -> what a listing says of it, folders included."""
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        found = {path: {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders}
        for path, content in files.items():
            found[path] = {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
            if sha256(content) in repository.large:
                found[path]["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return found

    def file(self, repository: Repository, revision: str, path: str) -> None:
        """One file, or the part of it that was asked for."""
        if repository.gated and not self.owners:
            return self.refuse(403 if self.user else 401, "Access to this repository is restricted", "GatedRepo")
        commit = repository.at(revision)
        if commit is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            return self.refuse(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
        tag = sha256(content) if sha256(content) in repository.large else git_id(content)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status, part = 200, content
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            if first >= len(content):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            self.hub.ranges.append(asked[0])
            status, part = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        if self.command == "GET" and len(part) > 4096 and self.hub.cuts["GET"] and self.hub.cuts_now("GET"):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(part))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        return self.send(status, part, headers)


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub that listens on a free port of this machine until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
