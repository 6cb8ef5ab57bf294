"""The command: its output, its exit codes, and a push from end to end in processes that are killed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import push_to_hub
from animal_ldm import cli
from animal_ldm.commands.prepare import main as prepare_command
from animal_ldm.commands.push import main
from animal_ldm.errors import InputError
from animal_ldm.publishing import failures
from animal_ldm.publishing import hub as publishing_hub

from ..data.photos_on_disk import write_photos
from .hub_server import TOKEN, Fault, small_file

PUSH = ["--repo_id", "user/model"]


@pytest.fixture
def logged_in(hub, online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(publishing_hub, "PAUSES", (0, 0, 0, 0))


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    return left.value.code


def test_push_and_push_again(model, hub, logged_in, no_smoke_test, capsys):
    main([str(model), *PUSH])
    [commit] = hub.commits("user/model")
    first = capsys.readouterr()
    assert f"{len(hub.files('user/model')) - 1} files committed" in first.out
    assert 'marked "not measured"' in first.out
    cli.main(["push", str(model), *PUSH])
    second = capsys.readouterr()
    assert "nothing to do, everything is up to date" in second.out
    assert hub.commits("user/model") == [commit]
    assert TOKEN not in first.out + first.err + second.out + second.err
    assert not any(TOKEN.encode() in content for content in hub.files("user/model").values())


def test_dry_run(model, evaluation, hub, logged_in, no_smoke_test, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where evaluation/tiny is
    main([str(model), *PUSH, "--dry_run", "--staged", str(tmp_path / "staged")])
    out = capsys.readouterr().out
    assert hub.repositories == {}
    assert {method for method, _ in hub.requests} == {"GET"}
    assert (tmp_path / "staged/README.md").read_text() in out
    assert "evaluation: evaluation/tiny" in out
    assert "unet/diffusion_pytorch_model.safetensors" in out
    assert re.search(r"\n22 files, [45]\d\d kB; would upload 22, ", out)

    main([str(model), *PUSH])
    hub.add_commit(hub.repositories["model", "user/model"], "main", "x", {"README.md": small_file(b"edited")})
    capsys.readouterr()
    main([str(model), *PUSH, "--dry_run"])
    assert "would upload 1," in capsys.readouterr().out


def test_dry_run_without_network(model, online, no_smoke_test, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    main([str(model), *PUSH, "--dry_run"])
    assert "what would change is unknown: no connection to the Hub" in capsys.readouterr().out


def test_a_dataset_in_shards(hub, logged_in, tmp_path, capsys, monkeypatch):
    """A dry run, a push, and the same push again."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    write_photos(tmp_path / "pets" / "cat", 12, first_seed=0)
    options = ["--image_size", "32", "--workers", "1", "--format", "shards", "--license", "cc0-1.0"]
    prepare_command([str(tmp_path / "pets"), str(tmp_path / "data"), *options])
    push = ["--dataset", str(tmp_path / "data"), "--repo_id", "user/photos"]
    capsys.readouterr()
    main([*push, "--dry_run"])
    out = capsys.readouterr().out
    assert hub.repositories == {} and "5 files," in out and "would upload 5," in out
    assert "train/00000-of-00001.parquet" in out and "validation/00000-of-00001.parquet" in out
    main(push)
    there = hub.files("user/photos", kind="dataset")
    assert there["train/00000-of-00001.parquet"] == (tmp_path / "data/train/00000-of-00001.parquet").read_bytes()
    capsys.readouterr()
    main(push)
    assert "nothing to do" in capsys.readouterr().out


def test_statements_reach_the_card(model, hub, logged_in, no_smoke_test, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/dataset_card.md").write_text("---\nlicense: cc-by-4.0\npretty_name: Wild animals\n---\n")
    main(
        [
            *(str(model), *PUSH, "--developed_by", "A. Person", "--contact", "me@example.org", "--license", "mit"),
            *("--data", str(tmp_path / "photos"), "--dataset_id", "user/photos", "--provider", "a laptop"),
            *("--known_failures", "Heads are lost.", "Legs are many."),
        ]
    )
    card = hub.files("user/model")["README.md"].decode()
    for text in (
        "A. Person",
        "<me@example.org>",
        "a laptop",
        "own terms: cc-by-4.0",
        "Wild animals: 1,234 training photos",
        "datasets/user/photos",
        "license: mit",
    ):
        assert text in card
    assert "- Seen in samples: Heads are lost.\n- Seen in samples: Legs are many.\n" in card
    assert "- **Region:** FRA" in card  # the country of the training


def test_exit_codes(model, hub, logged_in, no_smoke_test, capsys, monkeypatch, tmp_path):
    hub.create("model", "user/model")
    hub.create("dataset", "user/photos")
    assert exit_code(str(model), "--repo_id", "model") == failures.WRONG_NAME
    assert exit_code(str(model), "--repo_id", "user/photos") == failures.OTHER_TYPE
    assert exit_code(str(model), *PUSH, "--private") == failures.REFUSED
    hub.faults = [Fault("GET", "", "error", times=99)]
    assert exit_code(str(model), *PUSH) == failures.NO_NETWORK
    hub.faults = []
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with monkeypatch.context() as logged_out:
        logged_out.delenv("HF_TOKEN")
        assert exit_code(str(model), *PUSH) == failures.NO_TOKEN
    assert "staging" not in capsys.readouterr().out  # all of these are told at once
    assert exit_code(str(model), "--repo_id", "somebody/model") == failures.NO_RIGHT
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: This token may not write to somebody/model")
    assert TOKEN not in error


def test_wrong_arguments(model, logged_in, tmp_path):
    with pytest.raises(InputError, match="exactly one of MODEL"):
        main([*PUSH])
    with pytest.raises(InputError, match="must be an empty or new folder"):
        main([str(model), *PUSH, "--staged", str(model)])
    with pytest.raises(InputError, match="not found"):
        main([str(tmp_path), *PUSH])


def test_script_stays_thin():
    assert len(Path(push_to_hub.__file__).read_text().splitlines()) <= 10


def test_the_hub_is_asked_about_the_card_before_anything_is_uploaded(model, hub, logged_in, no_smoke_test, capsys):
    hub.faults = [Fault("POST", "validate-yaml", "error", times=99)]
    assert exit_code(str(model), *PUSH) == failures.NO_NETWORK
    assert "the Hub answered 500" in capsys.readouterr().err
    assert hub.repositories == {}


def test_card_that_the_hub_refuses(hub, logged_in, tmp_path, monkeypatch):
    monkeypatch.setitem(publishing_hub.CARDS, "model", publishing_hub.SpaceCard)  # whose rules this Hub knows
    (tmp_path / "README.md").write_text("---\nsdk: none\n---\n")
    with pytest.raises(failures.HubError, match='refuses the card: "sdk" must be one of the list') as error:
        publishing_hub.validate_card(tmp_path, publishing_hub.Target("user/model"))
    assert error.value.exit_code == failures.REFUSED


@pytest.mark.slow
def test_whole_command_killed_at_random_moments(model, hub):
    hub.delay = 0.1
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, push_to_hub.__file__, str(model), *PUSH]

    def start() -> subprocess.Popen:
        hub.requests.clear()
        return subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    moments = random.Random(3)
    for kill in range(5):
        process = start()
        if kill:  # the first dies while it stages
            while not hub.requests and process.poll() is None:
                time.sleep(0.01)
        time.sleep(moments.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        assert TOKEN not in process.communicate()[0].decode()
    process = start()
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert TOKEN not in output
    assert len(hub.commits("user/model")) == 1
    assert b"# Model Card for user/model" in hub.files("user/model")["README.md"]
