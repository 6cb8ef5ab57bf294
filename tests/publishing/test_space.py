"""The demo as a Space: what is staged, that it runs without this package, and the push."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import SpaceCard

from animal_ldm.commands.push import main
from animal_ldm.publishing import failures
from animal_ldm.publishing.hub import publish
from animal_ldm.publishing.request import Target
from animal_ldm.publishing.spaces import DEMO, stage_space

from .hub_server import TOKEN, Fault
from .test_hub import PAUSES
from .test_push import exit_code, logged_in  # noqa: F401 - a fixture
from .test_staging import stage

pytest.importorskip("gradio", reason="a Space asks for the version that is installed")

SPACE = ["--repo_id", "user/tiny_model", "--space", "demo"]


@pytest.fixture
def staged(tmp_path):
    out = tmp_path / "space"
    out.mkdir()
    stage_space("user/tiny_model", "unlicense", out)
    return out


def test_files(staged):
    assert {file.name for file in staged.iterdir()} == {"app.py", "requirements.txt", "README.md"}
    assert (staged / "app.py").read_bytes() == DEMO.read_bytes()
    libraries = (staged / "requirements.txt").read_text().split()
    assert [line.split(">=")[0] for line in libraries] == ["accelerate", "diffusers", "torch", "transformers"]
    assert all(line.split(">=")[1][0].isdigit() for line in libraries)
    card = SpaceCard.load(staged / "README.md")
    assert card.data.models == ["user/tiny_model"]
    assert card.data.sdk == "gradio"
    assert "[user/tiny_model](https://huggingface.co/user/tiny_model)" in card.text


# What a Space does, in a process without this package, up to the moment when the page would be served.
RUN = """
import sys
sys.modules["animal_ldm"] = None
sys.path.insert(0, "")
import app
app.serve = lambda page: print("page of", page.title)
app.main()
"""


def test_runs_from_its_files_and_the_hub_alone(staged, model, hub, api, tmp_path, no_smoke_test):
    stage(model, tmp_path / "staged")
    publish(tmp_path / "staged", Target("user/tiny_model"), api, say=lambda _: None)
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN], cwd=staged, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "page of tiny_model"


def test_push_and_push_again(hub, logged_in, capsys):  # noqa: F811
    hub.create("model", "user/tiny_model")
    main([*SPACE])
    assert hub.repositories["space", "user/demo"].sdk == "gradio"
    files = hub.files("user/demo", kind="space")
    assert files.keys() == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert b"tiny_model" in files["README.md"]  # in place of the one that the Hub begins with
    assert "spaces/user/demo" in capsys.readouterr().out
    main([*SPACE])
    assert "nothing to do" in capsys.readouterr().out
    assert len(hub.commits("user/demo", kind="space")) == 1


def test_dry_run(hub, logged_in, capsys):  # noqa: F811
    main(["--repo_id", "user/tiny_model", "--space", "other/demo", "--dry_run"])
    out = capsys.readouterr().out
    assert hub.repositories == {}
    assert "sdk: gradio" in out and "app.py" in out
    assert "would upload 3," in out and "to spaces/other/demo" in out


def test_refused(hub, logged_in, capsys):  # noqa: F811
    assert exit_code(*SPACE) == failures.WRONG_NAME
    assert "Push the model first" in capsys.readouterr().err
    hub.create("model", "user/tiny_model", private=True)
    assert exit_code(*SPACE) == failures.REFUSED
    assert exit_code("--repo_id", "tiny_model", "--space", "demo") == failures.WRONG_NAME
    assert exit_code("--repo_id", "user/tiny_model", "--space", "my demo") == failures.WRONG_NAME
    assert "--space" in capsys.readouterr().err
    assert exit_code("--repo_id", "user/tiny_model", "--space", "tiny_model") == failures.OTHER_TYPE
    main([*SPACE, "--private"])
    assert hub.repositories["space", "user/demo"].private


@pytest.mark.parametrize(
    "fault",
    [Fault("POST", "repos/create", "lost"), Fault("POST", "/commit/", "lost"), Fault("POST", "/commit/", "cut")],
)
def test_faults_pass(staged, hub, api, fault):
    hub.faults = [Fault(fault.method, fault.path, fault.kind)]
    publish(staged, Target("user/demo", "space"), api, say=lambda _: None, pauses=PAUSES)
    files = hub.files("user/demo", kind="space")
    assert {name: files[name] for name in files if name != ".gitattributes"} == {
        file.name: file.read_bytes() for file in staged.iterdir()
    }
    assert len(hub.commits("user/demo", kind="space")) == 1


def test_card_that_the_hub_refuses(staged, hub, api):
    (staged / "README.md").write_text("---\nsdk: none\n---\n")
    with pytest.raises(failures.HubError, match="sdk") as error:
        publish(staged, Target("user/demo", "space"), api, say=lambda _: None, pauses=PAUSES)
    assert error.value.exit_code == failures.REFUSED
    assert TOKEN not in str(error.value)
    assert hub.commits("user/demo", kind="space") == []
