"""A Hub on loopback: what the client of `huggingface_hub` 2 really asks for when it publishes and downloads.

It keeps repositories in memory as commits of whole trees, and can be told to misbehave, see `Fault`. Large objects lie
behind a redirect to another host name ("localhost" instead of "127.0.0.1"), as the Hub's lie on a CDN.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

TOKEN = "hf_" + "t" * 34
STRANGER = "hf_" + "s" * 34  # the token of somebody without the right to write
USERS = {TOKEN: "user", STRANGER: "stranger"}
LFS_SUFFIXES = (".safetensors", ".png", ".jpg")
SPACE_SDKS = ("gradio", "docker", "static")
TREE_PAGE = 7  # entries per page of a tree, few, so that there are several pages
LFS_PART = 100_000  # bytes of a part of a large upload
TYPE = "(?P<kind>model|dataset|space)s"
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass(frozen=True)
class File:
    """A file of a commit; `content` is looked up by `sha256` if it is large."""

    size: int
    blob_id: str
    sha256: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    tree: dict[str, File]


@dataclass
class Repository:
    private: bool
    refs: dict[str, list[Commit]]  # "main", "refs/pr/1" -> commits, the oldest first
    tags: dict[str, str] = field(default_factory=dict)
    discussions: list[dict] = field(default_factory=list)
    sdk: str | None = None  # of a Space


@dataclass
class Fault:
    """Misbehaviour at the next `times` requests whose method and path match.

    Kinds: error (500), limit (429 with Retry-After), cut (the connection breaks after half of the request's body),
    lost (the request is done, the reply never arrives), slow (a second), conflict (somebody commits just before),
    damage (an upload is stored with a wrong byte), denied (403), html (a proxy's page). A function of the `Handler`
    replies in the Hub's place.
    """

    method: str
    path: str
    kind: "str | Callable[[Handler], None]"
    times: int = 1
    happened: int = 0


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def small_file(content: bytes) -> File:
    return File(len(content), git_digest(content), content=content)


class Hub:
    """The server: `with Hub() as hub: ...`, then `hub.url`, `hub.repositories`, `hub.faults`, `hub.requests`."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # by SHA-256
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.delay = 0.0  # seconds before every reply
        self.leaked: list[str] = []  # requests that took the token to the other host, in whatever part of them
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    # --- what tests look at ---

    def files(self, repo: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        tree = self.repositories[kind, repo].refs[revision][-1].tree
        return {path: self.content(file) for path, file in tree.items()}

    def commits(self, repo: str, revision: str = "main", kind: str = "model") -> list[Commit]:
        """Without the one that the repository began with."""
        return self.repositories[kind, repo].refs[revision][1:]

    def content(self, file: File) -> bytes:
        return self.objects[file.sha256] if file.sha256 else file.content

    # --- the state ---

    def create(self, kind: str, repo: str, private: bool = False, sdk: str | None = None) -> Repository:
        start = {".gitattributes": small_file(b"*.safetensors filter=lfs\n")}
        if kind == "space":
            start["README.md"] = small_file(f"---\ntitle: {repo}\nsdk: {sdk}\n---\n".encode())
        first = self.commit_of("initial commit", start, None)
        self.repositories[kind, repo] = Repository(private, {"main": [first]}, sdk=sdk)
        return self.repositories[kind, repo]

    def commit_of(self, title: str, tree: dict[str, File], parent: str | None) -> Commit:
        identity = json.dumps([title, parent, sorted((path, file.blob_id) for path, file in tree.items())])
        return Commit(hashlib.sha1(identity.encode()).hexdigest(), title, tree)

    def add_commit(self, repository: Repository, ref: str, title: str, changes: dict[str, File]) -> Commit:
        parent = repository.refs[ref][-1]
        commit = self.commit_of(title, parent.tree | changes, parent.oid)
        repository.refs[ref].append(commit)
        return commit

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.happened < fault.times and re.search(fault.path, path):
                    fault.happened += 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """Requests by method and path; `ROUTES` below is the protocol."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other, 40 ms a request
    disable_nagle_algorithm = True
    cut = False
    altered: Callable | None = None  # (status, content, headers) -> the same, of the reply that is sent

    def log_message(self, *_) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def finish(self) -> None:
        with suppress(ConnectionError):
            super().finish()

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        fault = self.hub.fault(self.command, url.path)
        kind = fault.kind if fault else None
        self.hub.requests.append((self.command, url.path))
        said = f"{self.path} {self.headers}"
        if self.headers["Host"].startswith("localhost") and (self.headers["Authorization"] or TOKEN in said):
            self.hub.leaked.append(url.path)
        if kind == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self.hang_up()
        self.body = self.read_body()
        time.sleep(1 if kind == "slow" else self.hub.delay)
        if kind == "error":
            return self.reply(500, {"error": "Internal Error - We're working hard to fix this as soon as possible!"})
        if kind == "html":
            return self.reply(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"})
        if kind == "limit":
            return self.reply(429, {"error": "too many requests"}, {"Retry-After": "1"})
        if kind == "denied":
            return self.reply(403, {"error": "Forbidden: you don't have the rights"})
        if kind == "damage":
            self.body = bytes([self.body[0] ^ 1]) + self.body[1:]
        if kind == "conflict":
            self.somebody_commits(url.path)
        self.cut = kind == "lost"
        self.altered = None
        if callable(kind):
            return kind(self)
        self.route(url.path)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client went away")
        return body

    def route(self, path: str) -> None:
        for method, pattern, action in ROUTES:
            if (found := re.fullmatch(pattern, path)) and self.command in method.split():
                try:
                    action(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
                except HubError as error:
                    code = {"X-Error-Code": error.code} if error.code else {}
                    message = {"X-Error-Message": str(error)}
                    self.reply(error.status, {"error": str(error)}, code | message)
                return
        self.reply(404, {"error": f"this Hub has no {self.command} {path}"})

    def reply(self, status: int, content: object = b"", headers: dict | None = None) -> None:
        if self.cut:
            return self.hang_up()
        if self.altered:
            status, content, headers = self.altered(status, content, headers or {})
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = {} if isinstance(content, bytes) else {"Content-Type": "application/json"}
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | kind | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    # --- who may do what ---

    def user(self) -> str | None:
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def repository(self, kind: str, repo: str, write: bool = False) -> Repository:
        user = self.user()
        found = self.hub.repositories.get((kind, repo))
        if found is None or (found.private and user != repo.split("/")[0]):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != repo.split("/")[0]:
            raise HubError(403, "Forbidden: you don't have the rights to write")
        return found

    def commits(self, repository: Repository, revision: str) -> list[Commit]:
        """The commits up to a revision: a branch, a pull request, a tag or a commit's digest."""
        revision = repository.tags.get(revision, revision)
        if revision in repository.refs:
            return repository.refs[revision]
        for commits in repository.refs.values():
            for place, commit in enumerate(commits):
                if commit.oid == revision:
                    return commits[: place + 1]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def somebody_commits(self, path: str) -> None:
        found = re.fullmatch(f"/api/{TYPE}/{REPO}/commit/(?P<revision>.*)", path)
        repository = self.hub.repositories[found["kind"], found["repo"]]
        with self.hub.lock:
            number = len(repository.refs["main"])
            file = small_file(b"by somebody else\n")
            self.hub.add_commit(repository, unquote(found["revision"]), "theirs", {f"theirs-{number}.txt": file})

    # --- the protocol ---

    def whoami(self) -> None:
        if (user := self.user()) is None:
            raise HubError(401, "Invalid username or password.")
        self.reply(200, {"name": user, "type": "user", "orgs": []})

    def create_repo(self) -> None:
        asked = json.loads(self.body)
        if (user := self.user()) is None:
            raise HubError(401, "Invalid username or password.")
        owner, kind = asked["organization"] or user, asked.get("type", "model")
        repo = f"{owner}/{asked['name']}"
        if owner != user:
            raise HubError(403, f"You don't have the rights to create a {kind} under the namespace {owner}")
        with self.hub.lock:
            url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo}"
            if (kind, repo) in self.hub.repositories:
                return self.reply(409, {"error": f"You already created this {kind} repo", "url": url})
            if kind == "space" and asked.get("sdk") not in SPACE_SDKS:
                raise HubError(400, f"a Space needs an sdk, one of {', '.join(SPACE_SDKS)}")
            self.hub.create(kind, repo, asked.get("visibility") == "private", asked.get("sdk"))
        self.reply(200, {"url": url})

    def validate_yaml(self) -> None:
        asked = json.loads(self.body)
        if not asked["content"].startswith("---\n"):
            return self.reply(200, {"warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        data = yaml.safe_load(asked["content"].split("---\n")[1])
        if asked["repoType"] == "space" and data.get("sdk") not in SPACE_SDKS:
            return self.reply(400, {"errors": [{"message": '"sdk" must be one of the list'}], "warnings": []})
        self.reply(200, {"errors": [], "warnings": []})

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        repository = self.repository(kind, repo)
        commit = self.commits(repository, revision or "main")[-1]
        siblings = [{"rfilename": path} for path in commit.tree]
        known = {"id": repo, "sha": commit.oid, "private": repository.private, "siblings": siblings, "tags": []}
        self.reply(200, known | {"author": repo.split("/")[0], "downloads": 0, "likes": 0})

    def refs(self, kind: str, repo: str) -> None:
        repository = self.repository(kind, repo)

        def listed(prefix: str, names: dict[str, str]) -> list[dict]:
            return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in names.items()]

        heads = {name: commits[-1].oid for name, commits in repository.refs.items()}
        branches = {name: oid for name, oid in heads.items() if not name.startswith("refs/")}
        self.reply(
            200,
            {
                "branches": listed("refs/heads/", branches),
                "tags": listed("refs/tags/", repository.tags),
                "converts": [],
                "pullRequests": listed("", {name: oid for name, oid in heads.items() if name not in branches}),
            },
        )

    def tree(self, kind: str, repo: str, revision: str) -> None:
        tree = self.commits(self.repository(kind, repo), revision)[-1].tree
        entries = []
        for path, file in sorted(tree.items()):
            entry = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
            if file.sha256:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
            entries.append(entry)
        start = int(self.query.get("cursor", 0))
        more = {}
        if start + TREE_PAGE < len(entries):
            following = (
                f"{self.hub.url}{quote(urlsplit(self.path).path, safe='/%')}?recursive=True&cursor={start + TREE_PAGE}"
            )
            more = {"Link": f'<{following}>; rel="next"'}
        self.reply(200, entries[start : start + TREE_PAGE], more)

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        repository = self.repository(kind, repo, write=not revision.startswith("refs/pr/"))
        tree = self.commits(repository, revision)[-1].tree
        answers = []
        for asked in json.loads(self.body)["files"]:
            there = tree.get(asked["path"])
            mode = "lfs" if asked["path"].endswith(LFS_SUFFIXES) else "regular"
            oid = (there.sha256 or there.blob_id) if there else None
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply(200, {"files": answers})

    def lfs_batch(self, kind: str, repo: str) -> None:
        self.repository(kind.rstrip("s/") or "model", repo)
        answers = []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                upload = {"href": f"{self.hub.cdn}/lfs/{oid}"}
                if size > LFS_PART:
                    parts = range(1, -(-size // LFS_PART) + 1)
                    header = {str(part): f"{self.hub.cdn}/lfs/{oid}/{part}" for part in parts}
                    upload = {"href": f"{self.hub.url}/lfs-complete", "header": header | {"chunk_size": str(LFS_PART)}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs-verify"}}
            answers.append(answer)
        self.reply(200, {"transfer": "basic", "objects": answers})

    def lfs_put(self, oid: str) -> None:
        with self.hub.lock:
            self.hub.objects[oid] = self.body
        self.reply(200)

    def lfs_put_part(self, oid: str, part: str) -> None:
        with self.hub.lock:
            self.hub.parts[oid, int(part)] = self.body
        self.reply(200, headers={"ETag": hashlib.md5(self.body).hexdigest()})

    def lfs_complete(self) -> None:
        asked = json.loads(self.body)
        with self.hub.lock:
            parts = [self.hub.parts[asked["oid"], part["partNumber"]] for part in asked["parts"]]
            self.hub.objects[asked["oid"]] = b"".join(parts)
        self.reply(200, {})

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        stored = self.hub.objects.get(asked["oid"])
        if stored is None or hashlib.sha256(stored).hexdigest() != asked["oid"] or len(stored) != asked["size"]:
            self.hub.objects.pop(asked["oid"], None)
            raise HubError(422, "the object's content has another SHA-256 than its name")
        self.reply(200, {})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        repository = self.repository(kind, repo, write=not revision.startswith("refs/pr/"))
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        changes = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                changes[value["path"]] = small_file(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise HubError(400, f"LFS object {value['oid']} of {value['path']} was not uploaded")
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
                )
                changes[value["path"]] = File(value["size"], git_digest(pointer.encode()), sha256=value["oid"])
            else:
                raise HubError(400, f"this Hub has no operation {operation['key']}")
        with self.hub.lock:
            head = self.commits(repository, revision)[-1]
            if header["value"].get("parentCommit", head.oid) != head.oid:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            commit = self.hub.add_commit(repository, revision, header["value"]["summary"], changes)
        self.reply(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit.oid}", "commitOid": commit.oid})

    def branch(self, kind: str, repo: str, revision: str) -> None:
        repository = self.repository(kind, repo, write=True)
        if revision in repository.refs:
            raise HubError(409, "Reference already exists")
        repository.refs[revision] = [*repository.refs["main"]]
        self.reply(200, {})

    def tag(self, kind: str, repo: str, revision: str) -> None:
        repository, name = self.repository(kind, repo, write=True), json.loads(self.body)["tag"]
        if name in repository.tags:
            raise HubError(409, "Tag reference exists already")
        repository.tags[name] = self.commits(repository, revision)[-1].oid
        self.reply(200, {})

    def discussions(self, kind: str, repo: str) -> None:
        repository = self.repository(kind, repo)
        if self.command == "POST":
            asked = json.loads(self.body)
            with self.hub.lock:
                number = len(repository.discussions) + 1
                made = {"num": number, "title": asked["title"], "author": {"name": self.user()}, "status": "draft"}
                made |= {"isPullRequest": asked["pullRequest"], "createdAt": "2026-01-01T00:00:00.000Z"}
                repository.discussions.append(made | {"repo": {"name": repo, "type": kind}})
                repository.refs[f"refs/pr/{number}"] = [*repository.refs["main"]]
            return self.reply(200, {"num": number})
        found = [one for one in repository.discussions if self.query.get("author") in (None, one["author"]["name"])]
        self.reply(200, {"discussions": found, "count": len(found), "start": 0})

    def discussion(self, kind: str, repo: str, number: str) -> None:
        found = self.repository(kind, repo).discussions[int(number) - 1]
        self.reply(200, found | {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "events": []})

    def discussion_status(self, kind: str, repo: str, number: str) -> None:
        found = self.repository(kind, repo).discussions[int(number) - 1]
        found["status"] = json.loads(self.body)["status"]
        event = {"id": "1", "type": "status-change", "createdAt": "2026-01-01T00:00:00.000Z"}
        event |= {"author": found["author"], "data": {"status": found["status"]}}
        self.reply(200, {"newStatus": event})

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> None:
        commit = self.commits(self.repository(kind.rstrip("s/") or "model", repo), revision)[-1]
        about = {"X-Repo-Commit": commit.oid}
        if (file := commit.tree.get(path)) is None:
            return self.reply(
                404, b"", about | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            )
        if file.sha256:
            linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
            return self.reply(302, b"", about | linked | {"Location": f"{self.hub.cdn}/cdn/{file.sha256}"})
        self.reply(200, file.content, about | {"ETag": f'"{file.blob_id}"'})

    def large_object(self, oid: str) -> None:
        self.reply(200, self.hub.objects[oid], {"ETag": f'"{oid}"'})


PREFIX = "(?P<kind>datasets/|spaces/)?"
ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create_repo),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", f"/api/{TYPE}/{REPO}", Handler.info),
    ("GET", f"/api/{TYPE}/{REPO}/revision/(?P<revision>.+)", Handler.info),
    ("GET", f"/api/{TYPE}/{REPO}/refs", Handler.refs),
    ("GET", f"/api/{TYPE}/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
    ("POST", f"/api/{TYPE}/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", f"/api/{TYPE}/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", f"/api/{TYPE}/{REPO}/branch/(?P<revision>.+)", Handler.branch),
    ("POST", f"/api/{TYPE}/{REPO}/tag/(?P<revision>.+)", Handler.tag),
    ("GET POST", f"/api/{TYPE}/{REPO}/discussions", Handler.discussions),
    ("GET", rf"/api/{TYPE}/{REPO}/discussions/(?P<number>\d+)", Handler.discussion),
    ("POST", rf"/api/{TYPE}/{REPO}/discussions/(?P<number>\d+)/status", Handler.discussion_status),
    ("POST", rf"/{PREFIX}{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_put),
    ("PUT", r"/lfs/(?P<oid>\w+)/(?P<part>\d+)", Handler.lfs_put_part),
    ("POST", "/lfs-complete", Handler.lfs_complete),
    ("POST", "/lfs-verify", Handler.lfs_verify),
    ("GET HEAD", f"/{PREFIX}{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    ("GET HEAD", r"/cdn/(?P<oid>\w+)", Handler.large_object),
]
