"""A local server that speaks the part of the Hugging Face hub's API that this package uses.

with serving_hub(tmp_path) as hub:
    hub.publish("timm/net", {"config.json": b"{}"})
    ...                                   # hf://timm/net
    assert hub.sent == ["timm/net/config.json"]
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_a_test"
READ_ONLY = "hf_reads_only"


class HubServer(ThreadingHTTPServer):
    """Keeps every commit of every repository, and records what it was asked for.

    Attributes:
        repositories: id -> {"branches": name -> commit, "private": bool, "gated": bool}.
        commits: (id, commit) -> path -> bytes.
        requests: (method, path) in their order.
        sent: id and path of each file whose content was sent.
        messages: of the commits.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.commits, self.large = {}, {}, {}
        self.requests, self.sent, self.messages = [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, name, files, branch="main", *, private=False, gated=False):
        """Commit files to a branch of a repository, which is made if need be; return the commit."""
        repository = self.repositories.setdefault(
            name, {"branches": {}, "private": private, "gated": gated}
        )
        before = repository["branches"].get(branch) or repository["branches"].get("main")
        content = {**self.commits.get((name, before), {}), **files}
        commit = hashlib.sha1(repr((name, branch, before, content)).encode()).hexdigest()
        self.commits[name, commit] = content
        repository["branches"][branch] = commit
        return commit

    def files(self, name, branch="main"):
        """Return path -> bytes of what is on a branch."""
        return self.commits[name, self.repositories[name]["branches"][branch]]


class _Failure(Exception):
    """Status, X-Error-Code."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _handle(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            for method, pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == self.command.replace("HEAD", "GET"):
                    return answer(self, *match.groups(), body=body)
            raise _Failure(404, None)
        except _Failure as failure:
            status, code = failure.args
            self._answer(b"", status, {} if code is None else {"X-Error-Code": code})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _answer(self, body, status=200, headers=()):
        self.send_response(status)
        always = {"Content-Length": len(body), "Connection": "close"}
        for name, value in {**always, **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value, status=200):
        headers = {"Content-Type": "application/json"}
        self._answer(json.dumps(value).encode(), status, headers)

    # --- what may be done -----------------------------------------------------------------------

    def _token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _find(self, name, revision="main"):
        """The repository and the commit, for one who may read them."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository["private"] and not self._token()):
            raise _Failure(401, "RepoNotFound")
        commit = repository["branches"].get(revision, revision)
        if (name, commit) not in self.server.commits:
            raise _Failure(404, "RevisionNotFound")
        return repository, commit

    def _may_write(self):
        if self._token() != TOKEN:
            raise _Failure(403 if self._token() else 401, None)

    # --- answers --------------------------------------------------------------------------------

    def _info(self, name, revision=None, *, body):
        repository, commit = self._find(name, revision or "main")
        files = self.server.commits[name, commit]
        siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
        private, gated = repository["private"], repository["gated"]
        self._json(
            {"id": name, "sha": commit, "private": private, "gated": gated, "siblings": siblings}
        )

    def _resolve(self, name, revision, file, *, body):
        # A branch may have a slash in its name; the file here never has one.
        repository, commit = self._find(name, revision)
        if repository["gated"] and not self._token():
            raise _Failure(401, "GatedRepo")
        data = self.server.commits[name, commit].get(file)
        if data is None:
            raise _Failure(404, "EntryNotFound")
        etag = hashlib.sha256(data).hexdigest()
        if self.command == "GET":
            self.server.sent.append(f"{name}/{file}")
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "X-Linked-Size": len(data)}
        self._answer(data, headers=headers)

    def _create(self, *, body):
        self._may_write()
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repositories:
            return self._json({"url": f"{self.server.url}/{name}"}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server.publish(name, {".gitattributes": b""}, private=private)
        self._json({"url": f"{self.server.url}/{name}"})

    def _branch(self, name, branch, *, body):
        self._may_write()
        if branch in self._find(name)[0]["branches"]:
            raise _Failure(409, None)
        self.server.publish(name, {}, branch)
        self._json({})

    def _validate(self, *, body):
        is_yaml = json.loads(body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": [] if is_yaml else [{"message": "no metadata"}]})

    def _preupload(self, name, revision, *, body):
        self._may_write()
        self._find(name, revision)
        files = json.loads(body)["files"]
        large = (".safetensors", ".keras")
        modes = [
            {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(large) else "regular"}
            for one in files
        ]
        self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def _lfs(self, name, *, body):
        self._may_write()
        self._json(
            {
                "transfer": "basic",
                "objects": [
                    {
                        **one,
                        "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}},
                    }
                    for one in json.loads(body)["objects"]
                ],
            }
        )

    def _large(self, oid, *, body):
        self.server.large[oid] = body
        self._answer(b"")

    def _commit(self, name, revision, *, body):
        self._may_write()
        self._find(name, revision)
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commit = self.server.publish(name, files, revision)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})


_REPO = r"([^/]+/[^/]+)"
_ROUTES = (
    ("GET", rf"/api/models/{_REPO}", _Handler._info),
    ("GET", rf"/api/models/{_REPO}/revision/(.+)", _Handler._info),
    ("GET", rf"/{_REPO}/resolve/(.+)/([^/]+)", _Handler._resolve),
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", rf"/api/models/{_REPO}/branch/(.+)", _Handler._branch),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("POST", rf"/api/models/{_REPO}/preupload/(.+)", _Handler._preupload),
    ("POST", rf"/{_REPO}.git/info/lfs/objects/batch", _Handler._lfs),
    ("PUT", r"/large/(.+)", _Handler._large),
    ("POST", rf"/api/models/{_REPO}/commit/(.+)", _Handler._commit),
)


@contextlib.contextmanager
def serving_hub(folder):
    """Run the server; huggingface_hub speaks with it, caches in a folder and has no token.

    Its settings are environment variables that it reads once, when it is imported.
    """
    from huggingface_hub import constants

    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(folder / "cache"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        patch.delenv("HF_TOKEN", raising=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
