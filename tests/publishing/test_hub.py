"""The unmodified client against a Hub on loopback that can be told to misbehave."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from huggingface_hub import HfApi, snapshot_download

from animal_ldm.publishing.failures import (
    CONFLICT,
    NO_NETWORK,
    NO_RIGHT,
    NO_TOKEN,
    OTHER_TYPE,
    REFUSED,
    WRONG_NAME,
    HubError,
)
from animal_ldm.publishing.hub import TITLE, differences, publish
from animal_ldm.publishing.request import Target
from animal_ldm.publishing.transport import connect

from .hub_server import STRANGER, TOKEN, Fault, small_file

REPO = "user/model"
MODEL = Target(REPO)
PAUSES = (0, 0, 0, 0)


def content_of(folder) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_published(hub, folder, revision="main", commits=1, others=(), kind="model"):
    """The revision holds the folder's files and `others`, and got there in `commits` commits of ours."""
    there = hub.files(REPO, revision, kind)
    assert {path: there.get(path) for path in content_of(folder)} == content_of(folder)
    assert set(there) - set(content_of(folder)) == {".gitattributes", *others}
    assert sum(commit.title == TITLE for commit in hub.commits(REPO, revision, kind)) == commits
    for commit in hub.commits(REPO, revision, kind):
        ours = set(commit.tree) & set(content_of(folder))
        assert ours in (set(), set(content_of(folder))), "half published"


# --- publishing ------------------------------------------------------------------------------------------------------


def test_publishes_every_file_in_one_commit(hub, api, folder):
    outcome = publish(folder, MODEL, api)
    assert_published(hub, folder)
    assert outcome.changed == len(content_of(folder))
    assert outcome.commit == hub.commits(REPO)[-1].oid
    assert not hub.repositories["model", REPO].private
    assert not hub.leaked  # the token never went to the host of the large files


def test_second_push_changes_nothing(hub, api, folder):
    publish(folder, MODEL, api)
    hub.requests.clear()
    assert publish(folder, MODEL, api).changed == 0
    assert {method for method, _ in hub.requests} == {"GET"}
    assert_published(hub, folder)


def test_uploads_only_what_differs_and_leaves_other_files(hub, api, folder):
    publish(folder, MODEL, api)
    hub.add_commit(hub.repositories["model", REPO], "main", "theirs", {"notes.txt": small_file(b"mine")})
    (folder / "unet/config.json").write_bytes(b'{"new": 1}\n')
    hub.requests.clear()
    assert publish(folder, MODEL, api).changed == 1
    assert not any("lfs" in path for _, path in hub.requests)
    assert hub.files(REPO)["unet/config.json"] == b'{"new": 1}\n'
    assert hub.files(REPO)["notes.txt"] == b"mine"


def test_large_file_of_the_same_size_is_replaced(hub, api, folder):
    publish(folder, MODEL, api)
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"w" * 5000)
    assert publish(folder, MODEL, api).changed == 1
    assert_published_content = hub.files(REPO)["vae/diffusion_pytorch_model.safetensors"]
    assert assert_published_content == b"w" * 5000


def test_private_branch_and_tag(hub, api, folder):
    target = Target(REPO, private=True, revision="v2", tag="1.0")
    publish(folder, target, api)
    assert hub.repositories["model", REPO].private
    assert_published(hub, folder, "v2")
    assert hub.commits(REPO, "main") == []
    assert hub.repositories["model", REPO].tags == {"1.0": hub.commits(REPO, "v2")[-1].oid}
    publish(folder, target, api)  # the tag is there already, at this very commit
    (folder / "unet/config.json").write_bytes(b"[]\n")
    with pytest.raises(HubError, match=r"tag 1\.0 is at another commit") as error:
        publish(folder, target, api)
    assert error.value.exit_code == CONFLICT


def test_pull_request_is_gone_on_with(hub, api, folder):
    target = Target(REPO, create_pr=True)
    hub.faults = [Fault("POST", "/commit/", "denied")]
    with pytest.raises(HubError):
        publish(folder, target, api, pauses=PAUSES)
    [request] = hub.repositories["model", REPO].discussions
    assert request["status"] == "draft"  # nobody is asked to merge what is not whole
    outcome = publish(folder, target, api)
    (folder / "unet/config.json").write_bytes(b"[]\n")
    publish(folder, target, api)
    [request] = hub.repositories["model", REPO].discussions
    assert request["status"] == "open"
    assert outcome.url.endswith("/user/model/discussions/1")
    assert_published(hub, folder, "refs/pr/1", commits=2)
    assert hub.commits(REPO, "main") == []


def test_no_pull_request_for_what_is_there(hub, api, folder):
    publish(folder, MODEL, api)
    assert publish(folder, Target(REPO, create_pr=True), api).changed == 0
    assert hub.repositories["model", REPO].discussions == []


def test_dataset_in_several_commits_ends_with_its_index(hub, api, tmp_path, monkeypatch):
    monkeypatch.setattr("animal_ldm.publishing.hub.COMMIT_FILES", 10)
    for number in range(24):
        (tmp_path / f"data/train/zebra/{number}.png").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/train/zebra/{number}.png").write_bytes(b"%d" % number)
    (tmp_path / "data/train/metadata.jsonl").write_text("{}\n")
    publish(tmp_path / "data", Target(REPO, "dataset"), api)
    assert hub.files(REPO, kind="dataset").keys() == {".gitattributes", *content_of(tmp_path / "data")}
    commits = hub.commits(REPO, kind="dataset")
    assert ["train/metadata.jsonl" in commit.tree for commit in commits] == [False, False, True]


def test_differences_change_nothing(hub, api, folder):
    assert {change for change, _ in differences(folder, MODEL, api)} == {"new"}
    assert hub.repositories == {}
    publish(folder, MODEL, api)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "more.json").write_text("{}")
    changes = {file.path: change for change, file in differences(folder, MODEL, api)}
    assert changes.pop("README.md") == "changed"
    assert changes.pop("more.json") == "new"
    assert set(changes.values()) == {"same"}


def test_download_gives_the_same_files(hub, api, folder, tmp_path):
    publish(folder, MODEL, api)
    local = snapshot_download(REPO, endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "down", max_workers=1)
    assert content_of(folder).items() <= content_of(tmp_path / "down").items()
    assert str(tmp_path) in local
    assert not hub.leaked


# --- what goes wrong and passes --------------------------------------------------------------------------------------

PASSING = {
    "whoami fails": Fault("GET", "whoami", "error"),
    "creation fails": Fault("POST", "repos/create", "error"),
    "creation's reply is lost": Fault("POST", "repos/create", "lost"),
    "a proxy answers": Fault("POST", "validate-yaml", "html"),
    "preupload fails": Fault("POST", "/preupload/", "error"),
    "rate limit at the listing": Fault("GET", "/tree/", "limit"),
    "rate limit at the commit": Fault("POST", "/commit/", "limit"),
    "batch fails": Fault("POST", "objects/batch", "error"),
    "upload is cut": Fault("PUT", "/lfs/", "cut"),
    "upload's reply is lost": Fault("PUT", "/lfs/", "lost"),
    "upload is slow": Fault("PUT", "/lfs/", "slow"),
    "upload arrives damaged": Fault("PUT", "/lfs/", "damage"),
    "commit is cut": Fault("POST", "/commit/", "cut"),
    "commit fails": Fault("POST", "/commit/", "error"),
    "commit fails three times": Fault("POST", "/commit/", "error", times=3),
    "commit's reply is lost": Fault("POST", "/commit/", "lost"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(hub, api, folder, name):
    fault = PASSING[name]
    hub.faults = [Fault(fault.method, fault.path, fault.kind, fault.times)]
    publish(folder, MODEL, api, pauses=PAUSES)
    assert hub.faults[0].happened == fault.times
    assert_published(hub, folder)


def test_somebody_else_commits_meanwhile(hub, api, folder):
    hub.faults = [Fault("POST", "/commit/", "conflict", times=2)]
    publish(folder, MODEL, api, pauses=PAUSES)
    assert_published(hub, folder, others=("theirs-1.txt", "theirs-2.txt"))


def test_retry_after_is_heeded(hub, api, folder):
    hub.faults = [Fault("POST", "/commit/", "limit")]
    said = []
    publish(folder, MODEL, api, say=said.append, pauses=PAUSES)
    assert any("rate limit" in line and "1 s" in line for line in said)


# --- what goes wrong and does not pass -------------------------------------------------------------------------------


def failure(folder, target, api) -> HubError:
    with pytest.raises(HubError) as error:
        publish(folder, target, api, say=lambda _: None, pauses=PAUSES)
    assert TOKEN not in str(error.value)
    assert str(error.value)[-1] == "."
    return error.value


def test_conflicts_without_end(hub, api, folder):
    hub.faults = [Fault("POST", "/commit/", "conflict", times=99)]
    assert failure(folder, MODEL, api).exit_code == CONFLICT
    assert not set(content_of(folder)) & set(hub.files(REPO))


def test_errors_without_end(hub, api, folder):
    hub.faults = [Fault("POST", "/commit/", "error", times=99)]
    error = failure(folder, MODEL, api)
    assert error.exit_code == NO_NETWORK
    assert "500" in str(error)
    assert hub.commits(REPO) == []
    hub.faults = []
    publish(folder, MODEL, api)
    assert_published(hub, folder)


def test_uploads_that_always_arrive_damaged(hub, api, folder):
    hub.faults = [Fault("PUT", "/lfs/", "damage", times=99)]
    assert "SHA-256" in str(failure(folder, MODEL, api))
    assert hub.commits(REPO) == []


def test_no_network(api, folder):
    nobody = connect("http://127.0.0.1:9", TOKEN)
    error = failure(folder, MODEL, nobody)
    assert error.exit_code == NO_NETWORK
    assert "no connection" in str(error)


def test_no_token(hub, online, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert failure(folder, MODEL, HfApi(endpoint=hub.url)).exit_code == NO_TOKEN


def test_unknown_token(hub, online, folder):
    error = failure(folder, MODEL, HfApi(endpoint=hub.url, token="hf_" + "x" * 34))
    assert error.exit_code == NO_TOKEN
    assert "xxx" not in str(error)


def test_no_right_to_write(hub, api, folder):
    stranger = HfApi(endpoint=hub.url, token=STRANGER)
    assert failure(folder, MODEL, stranger).exit_code == NO_RIGHT  # to create
    hub.create("model", REPO)
    assert failure(folder, MODEL, stranger).exit_code == NO_RIGHT  # to commit
    assert hub.commits(REPO) == []


@pytest.mark.parametrize("path", ["repos/create", "/preupload/", "objects/batch", "/commit/"])
def test_right_to_write_is_taken_away_on_the_way(hub, api, folder, path):
    hub.faults = [Fault("POST", path, "denied")]
    assert failure(folder, MODEL, api).exit_code == NO_RIGHT
    assert ("model", REPO) not in hub.repositories or hub.commits(REPO) == []
    publish(folder, MODEL, api)
    assert_published(hub, folder)


def test_stranger_may_open_a_pull_request(hub, api, folder):
    hub.create("model", REPO)
    publish(folder, Target(REPO, create_pr=True), HfApi(endpoint=hub.url, token=STRANGER))
    assert_published(hub, folder, "refs/pr/1")


def test_name_of_another_type(hub, api, folder):
    hub.create("dataset", REPO)
    error = failure(folder, MODEL, api)
    assert error.exit_code == OTHER_TYPE
    assert "is a dataset on the Hub" in str(error)
    assert ("model", REPO) not in hub.repositories


@pytest.mark.parametrize("name", ["", "model", "a/b/c", "user/mo del", "user/-model", "user/x--y"])
def test_wrong_names(hub, api, folder, name):
    assert failure(folder, Target(name), api).exit_code == WRONG_NAME
    assert hub.requests == []


def test_public_repository_is_not_taken_for_private(hub, api, folder):
    hub.create("model", REPO)
    assert failure(folder, Target(REPO, private=True), api).exit_code == REFUSED
    assert hub.commits(REPO) == []


def test_weights_of_an_earlier_model_are_not_mixed_with_ours(hub, api, folder):
    repository = hub.create("model", REPO)
    stale = {"unet/diffusion_pytorch_model.fp16.safetensors": small_file(b"old")}
    hub.add_commit(repository, "main", "theirs", stale)
    error = failure(folder, MODEL, api)
    assert error.exit_code == REFUSED
    assert "fp16.safetensors of an earlier model" in str(error)


# --- killed ----------------------------------------------------------------------------------------------------------

PUSHER = """
import sys
from pathlib import Path
from animal_ldm.publishing.hub import publish
from animal_ldm.publishing.request import Target
from animal_ldm.publishing.transport import connect
print("begins", flush=True)
publish(Path(sys.argv[1]), Target("user/model"), connect())
"""


def start_pusher(hub, folder) -> subprocess.Popen:
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", PUSHER, str(folder)]
    return subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_pushers(hub, folder, times: int) -> None:
    """Kill as many pushers at random moments of their work, then let one finish."""
    hub.delay = 0.03  # some 25 requests, so that the work takes most of a second
    moments = random.Random(7)
    for _ in range(times):
        pusher = start_pusher(hub, folder)
        pusher.stdout.readline()
        time.sleep(moments.uniform(0, 1))
        pusher.send_signal(signal.SIGKILL)
        pusher.communicate()
        # what a killed pusher left on the Hub is nothing, or everything
        if ("model", REPO) in hub.repositories and hub.commits(REPO):
            assert_published(hub, folder)
    pusher = start_pusher(hub, folder)
    output = pusher.communicate()[0].decode()
    assert pusher.returncode == 0, output
    assert TOKEN not in output
    assert_published(hub, folder)


def test_killed_twice(hub, folder):
    kill_pushers(hub, folder, times=2)


@pytest.mark.slow
def test_killed_twenty_times(hub, folder):
    # the first pusher that lives long enough ends the work, so it is made longer than their lives
    for number in range(200):
        (folder / f"samples/{number}.png").write_bytes(b"%d" % number)
    kill_pushers(hub, folder, times=20)
