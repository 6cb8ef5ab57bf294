"""Captions by a model: tiny real captioners, whose captions are nonsense but follow from the image and the prompt."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import CLIPConfig, CLIPModel

from animal_ldm import cli
from animal_ldm.commands.caption import main
from animal_ldm.data.captioner import CHAT_PROMPT, Captioner, SeededSampling, find_captioner
from animal_ldm.data.captioning import name_class, with_captions
from animal_ldm.data.prepared import load_split
from animal_ldm.data.records import MetadataLine
from animal_ldm.data.report import read_report
from animal_ldm.data.settings import CaptioningSettings
from animal_ldm.errors import InputError
from animal_ldm.publishing.rules import check_card

from ..forked import exit_codes, fork_several, wait_until
from .captioners import FAMILIES, blip, save
from .photos_on_disk import contents, photo, write_photos
from .test_prepare import prepare, rows

PHOTOS = [photo(seed, 32, 32) for seed in range(5)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save("blip", tmp_path_factory.mktemp("models") / "blip-tiny")


@pytest.fixture
def data(tmp_path):
    """12 zebras, one with a caption of its own, and 4 horses."""
    write_photos(tmp_path / "animals" / "zebra", 12, first_seed=0)
    write_photos(tmp_path / "animals" / "horse", 4, first_seed=100)
    (tmp_path / "animals" / "zebra" / "000.txt").write_text("Zelda\nZelda at home\n")
    prepare(tmp_path / "animals", tmp_path / "data", "--val_fraction", "0.2")
    return tmp_path / "data"


def caption(data, model, *options: str) -> dict:
    """Run in this process; return the report."""
    main([str(data), "--model", str(model), "--device", "cpu", "--max_new_tokens", "12", *options])
    return json.loads((data / "preparation_report.json").read_text())


def all_rows(data) -> list[dict]:
    return [row for split in ("train", "validation") for row in rows(data, split)]


def by_model(row: dict, name: str = "blip-tiny") -> list[str]:
    return [t for t, s in zip(row["texts"], row["caption_sources"], strict=True) if s == f"model:{name}"]


def load(model, **settings) -> Captioner:
    files = find_captioner(str(model))
    settings = {"max_new_tokens": 12} | settings
    return Captioner(files, CaptioningSettings(**settings | {"prompt": files.prompt(settings.get("prompt"))}), CPU)


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3}, {"num_captions": 3}], ids=str)
def test_a_batch_gives_the_captions_of_single_photos(tmp_path, family, settings):
    captioner = load(save(family, tmp_path / family), **settings)
    names = [f"zebra/{index}.png" for index in range(len(PHOTOS))]
    captions = captioner.caption(PHOTOS, names)
    assert captions == [captioner.caption([p], [n])[0] for p, n in zip(PHOTOS, names, strict=True)]
    assert captions[::-1] == captioner.caption(PHOTOS[::-1], names[::-1])
    assert len({str(texts) for texts in captions}) > 1  # they follow from the photo
    for text in (text for texts in captions for text in texts):
        assert text and not set("<[|") & set(text) and "in one short sentence" not in text
    if "num_captions" in settings:
        assert max(map(len, captions)) == 3


def test_prompts(tmp_path, model):
    files = find_captioner(str(model))
    assert files.prompt(None) is None and files.prompt("a zebra in") == "a zebra in"
    assert all(
        texts[0].startswith("a zebra in ") for texts in load(model, prompt="a zebra in").caption(PHOTOS, [""] * 5)
    )
    chat = find_captioner(str(save("idefics3", tmp_path / "chat")))
    assert chat.prompt(None) == CHAT_PROMPT and chat.prompt("What ?") == "What ?"
    assert find_captioner(str(save("florence2", tmp_path / "florence2"))).prompt(None) == "<CAPTION>"
    with pytest.raises(InputError, match="takes no prompt"):
        find_captioner(str(save("vit_gpt2", tmp_path / "vit"))).prompt("a zebra in")
    git = load(save("git", tmp_path / "git"), prompt="a zebra in")
    assert all(texts[0].startswith("a zebra in ") for texts in git.caption(PHOTOS, [""] * 5))
    asked, default = (load(tmp_path / "chat", prompt=prompt) for prompt in ("a white horse", None))
    assert asked.caption(PHOTOS, [""] * 5) != default.caption(PHOTOS, [""] * 5)


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = SeededSampling([5], temperature=0.5, top_p=1.0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[sampling(torch.zeros(1, 1, dtype=torch.long), logits).argmax()] += 1
    assert (counts / 4000 - (logits[0] / 0.5).softmax(0)).abs().max() < 0.03
    nucleus = SeededSampling([5], temperature=1.0, top_p=0.5)
    assert all(nucleus(torch.zeros(1, 1, dtype=torch.long), logits).argmax() == 0 for _ in range(50))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_number_types(model, dtype):
    captioner = load(model, dtype=dtype)
    assert captioner.model.dtype == getattr(torch, dtype)
    assert all(captioner.caption(PHOTOS, [""] * 5))


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_an_accelerator(model):
    files = find_captioner(str(model))
    captioner = Captioner(files, CaptioningSettings(max_new_tokens=12), torch.accelerator.current_accelerator())
    assert all(captioner.caption(PHOTOS, [""] * 5))


# --- the dataset -----------------------------------------------------------------------------------------------------


def test_captions_are_added_to_the_templates(data, model):
    before = {row["file_name"]: row for row in all_rows(data)}
    report = caption(data, model)
    for row in all_rows(data):
        old = before[row["file_name"]]
        if old["texts"][0] == "Zelda":
            assert row == old and row["caption_sources"] == ["own", "own"]
        else:
            assert row["texts"][:1] == old["texts"] and row["text"] == old["text"]
            assert row["caption_sources"] == ["template", "model:blip-tiny"]
    record = report["captioners"][0]
    assert (record["name"], record["photos"], record["captions"]) == ("blip-tiny", 15, 15)
    assert record["revision"].startswith("sha256:") and record["settings"]["num_beams"] == 3
    assert (report["num_captions"], report["captions"]) == (32, {"own": 1, "templates": 15})
    assert not (data / ".captions").exists()
    assert all(len(captions) == 2 for captions in load_split(data, "train").captions)


def test_the_card_names_the_captioner(data, model):
    caption(data, model, "--prompt", "a zebra in")
    card = (data / "dataset_card.md").read_text()
    check_card(card, "dataset", data)
    assert card.count("### Captions by a model") == 1
    report = read_report(data / "preparation_report.json")
    assert report is not None
    assert "`blip-tiny`" in card and f"`{report.captioners[0].revision}`" in card and "`a zebra in`" in card
    assert "language" not in yaml.safe_load(card.split("---\n")[1])
    edited = card.replace("## Uses", "My own words.\n\n## Uses")
    (data / "dataset_card.md").write_text(edited)
    caption(data, model, "--prompt", "a horse in")
    assert (data / "dataset_card.md").read_text() == edited.replace("`a zebra in`", "`a horse in`")
    (data / "dataset_card.md").write_text(edited.split("<!-- captioners -->")[0])
    caption(data, model, "--prompt", "a dog in")
    added = (data / "dataset_card.md").read_text()
    assert added.count("### Captions by a model") == 1 and "My own words." in added and "`a dog in`" in added


def test_batch_size_makes_no_difference(data, model):
    caption(data, model, "--batch_size", "1", "--num_captions", "2")
    one = contents(data)
    caption(data, model)
    assert contents(data) != one
    caption(data, model, "--batch_size", "7", "--num_captions", "2")
    assert contents(data) == one


def test_several_captions(data, model):
    report = caption(data, model, "--num_captions", "3", "--seed", "1")
    three = {row["file_name"]: by_model(row) for row in all_rows(data)}
    assert max(map(len, three.values())) == 3
    assert report["captioners"][0]["captions"] == sum(map(len, three.values()))
    caption(data, model, "--num_captions", "3", "--seed", "2")
    assert {row["file_name"]: by_model(row) for row in all_rows(data)} != three


def test_another_model_replaces_captions_of_models_alone(data, model, tmp_path):
    other = save("git", tmp_path / "git-tiny")
    start = contents(data)
    caption(data, model)
    first = contents(data)
    report = caption(data, other)
    assert [captioner["name"] for captioner in report["captioners"]] == ["git-tiny"]
    assert not any(by_model(row) for row in all_rows(data))
    assert sum(len(by_model(row, "git-tiny")) for row in all_rows(data)) == 15
    report = caption(data, model, "--keep_others")
    assert [captioner["name"] for captioner in report["captioners"]] == ["git-tiny", "blip-tiny"]
    assert all(len(by_model(row)) == len(by_model(row, "git-tiny")) for row in all_rows(data))
    caption(data, model)
    assert contents(data) == first
    templates = {row["file_name"]: row["texts"][0] for row in all_rows(data)}
    assert templates == {
        row["file_name"]: row["text"]
        for split in ("train", "validation")
        for row in map(json.loads, start[f"{split}/metadata.jsonl"].splitlines())
    }


def test_own_captions_are_kept_and_added_to_if_asked(data, model, capsys):
    caption(data, model)
    assert "1 photos with captions of your own are as they were" in capsys.readouterr().out
    caption(data, model, "--add_to_own")
    own = next(row for row in all_rows(data) if row["text"] == "Zelda")
    assert own["texts"][:2] == ["Zelda", "Zelda at home"] and own["caption_sources"][:2] == ["own", "own"]
    assert len(by_model(own)) == 1
    caption(data, model)
    own = next(row for row in all_rows(data) if row["text"] == "Zelda")
    assert own["texts"] == ["Zelda", "Zelda at home"]


def test_only_own_captions(tmp_path, model):
    write_photos(tmp_path / "pets", 3, first_seed=0)
    for index in range(3):
        (tmp_path / "pets" / f"00{index}.txt").write_text(f"Ada {index}\n")
    prepare(tmp_path / "pets", tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(InputError, match=r"All 3 photos of .* captions of your own.*--add_to_own"):
        caption(tmp_path / "data", model)
    assert contents(tmp_path / "data") == before


def test_photos_without_any_text_get_one(tmp_path, model):
    write_photos(tmp_path / "pets", 4, first_seed=0)
    prepare(tmp_path / "pets", tmp_path / "data", "--val_fraction", "0")
    report = caption(tmp_path / "data", model, "--keep_class")
    for row in rows(tmp_path / "data", "train"):
        assert row["text"] and row["texts"] == [row["text"]] and row["caption_sources"] == ["model:blip-tiny"]
    assert (report["photos_without_text"], report["num_captions"]) == (0, 4)


@pytest.mark.parametrize(
    ("sources", "message"),
    [("own", "list of strings"), ([1], "list of strings"), (["own", "own"], "as many as texts")],
)
def test_malformed_sources(sources, message):
    line = {"file_name": "a.png", "text": "a cat", "label": "cat", "texts": ["a cat"], "caption_sources": sources}
    with pytest.raises(ValueError, match=message):
        MetadataLine.parse(json.dumps(line))


def test_folders_of_earlier_versions(data, model):
    """Without sources, what a template gives for the class counts as one, everything else as the user's own."""
    for split in ("train", "validation"):
        lines = [{key: row[key] for key in ("file_name", "text", "label")} for row in rows(data, split)]
        (data / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = json.loads((data / "preparation_report.json").read_text())
    del report["captioners"]
    (data / "preparation_report.json").write_text(json.dumps(report))
    caption(data, model)
    assert {tuple(row["caption_sources"]) for row in all_rows(data)} == {("own",), ("template", "model:blip-tiny")}
    assert [row["text"] for row in all_rows(data) if row["caption_sources"] == ["own"]] == ["Zelda"]


def test_a_dataset_without_a_report(data, model, caplog):
    (data / "preparation_report.json").unlink()
    main([str(data), "--model", str(model), "--device", "cpu", "--max_new_tokens", "5"])
    assert "neither it nor the card names the captioner" in caplog.text
    assert sum(len(by_model(row)) for row in all_rows(data)) == 15


def test_the_result_loads_as_an_image_folder_and_prepares_to_the_same(data, model, tmp_path):
    caption(data, model)
    captioned = contents(data)
    loaded = load_dataset("imagefolder", data_dir=str(data), cache_dir=str(tmp_path / "cache"))
    assert {len(example["texts"]) for part in loaded.values() for example in part} == {2}
    prepare(tmp_path / "animals", data, "--val_fraction", "0.2")
    assert contents(data) == captioned


def test_a_mended_dataset_keeps_its_captions(data, model, tmp_path):
    caption(data, model)
    captioned = contents(data)
    (data / "train" / rows(data, "train")[3]["file_name"]).unlink()
    prepare(tmp_path / "animals", data, "--val_fraction", "0.2")
    assert contents(data) == captioned


def test_a_dataset_that_lost_its_metadata_does_not_claim_all_captions(data, model, tmp_path):
    caption(data, model)
    (data / "validation" / "metadata.jsonl").unlink()
    report = prepare(tmp_path / "animals", data, "--val_fraction", "0.2")
    assert report["captioners"] == [] and any(by_model(row) for row in rows(data, "train"))
    assert not any(by_model(row) for row in rows(data, "validation"))


def test_prepared_again_the_captions_keep_their_sources(data, model, tmp_path):
    caption(data, model)
    prepare(data, tmp_path / "again", "--val_fraction", "0.2", "--image_size", "16")
    before, after = ({tuple(row["texts"]): row["caption_sources"] for row in all_rows(folder)}
                     for folder in (data, tmp_path / "again"))  # fmt: skip
    assert after == before and any("model:blip-tiny" in sources for sources in after.values())
    again = load_split(tmp_path / "again", "train")
    assert again.sources[0] == tuple(rows(tmp_path / "again", "train")[0]["caption_sources"])


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("a horse in a field", "zebra", "a zebra: a horse in a field"),
        ("two Zebras in a field", "zebra", "two Zebras in a field"),
        ("A zebra.", "zebra", "A zebra."),
        ("a zebrafish", "zebra", "a zebra: a zebrafish"),
        ("a bear on ice", "polar bear", "a polar bear: a bear on ice"),
        ("polar-bears on ice", "polar bear", "polar-bears on ice"),
        ("a big one", "elephant", "an elephant: a big one"),
        ("a horse", "", "a horse"),
    ],
)
def test_keep_class(text, label, expected):
    assert name_class(text, label) == expected


def test_keep_class_in_the_dataset(data, model, capsys):
    caption(data, model, "--keep_class")
    for row in all_rows(data):
        assert all(row["label"] in text for text in by_model(row))
    assert "captions lacked the class name" in capsys.readouterr().out


def test_captions_of_models_end_up_after_the_others():
    line = MetadataLine("a.png", "Ada", "cat", ("Ada", "old", "a cat"), ("own", "model:a/b", "template"))
    new = with_captions(line, ["new", "a cat", "new"], "model:c/d", keep_others=False)
    assert new == MetadataLine("a.png", "Ada", "cat", ("Ada", "a cat", "new"), ("own", "template", "model:c/d"))
    assert with_captions(line, [], "model:c/d", keep_others=True) == line
    only = MetadataLine("a.png", "old", "", ("old",), ("model:a/b",))
    assert with_captions(only, [], "model:a/b", keep_others=True) == MetadataLine("a.png", "", "", ("",), ("none",))


# --- interruptions and several processes -----------------------------------------------------------------------------


SAMPLED = ("--num_captions", "2", "--batch_size", "2", "--max_new_tokens", "40")


def test_a_killed_run_resumes(data, model, tmp_path):
    caption(data, model, *SAMPLED)
    expected = contents(data)
    caption(data, model)  # other captions
    before = contents(data)

    def work() -> list[Path]:
        return list(data.glob(".captions/*/process-0000.jsonl"))

    with (tmp_path / "output").open("wb") as output:
        [child] = fork_several(lambda: caption(data, model, *SAMPLED), 1, output)
        wait_until(lambda: any(file.read_bytes().count(b"\n") >= 4 for file in work()), [child])
        os.kill(child, signal.SIGKILL)
        assert exit_codes([child]) == [-signal.SIGKILL]
    written = work()[0].read_bytes()
    assert {name: file for name, file in contents(data).items() if ".captions" not in name} == before
    # What was done is taken as it is, a line that was cut off is not.
    lines = written[: written.rfind(b"\n") + 1].splitlines(keepends=True)
    first = json.loads(lines[0])
    work()[0].write_bytes(
        json.dumps(first | {"captions": ["a mark"]}).encode() + b"\n" + b"".join(lines[1:]) + lines[0][:30]
    )
    caption(data, model, *SAMPLED)
    marked = next(row for row in all_rows(data) if "a mark" in row["texts"])
    assert first["photo"].endswith(marked["file_name"])
    assert not (data / ".captions").exists()
    texts = {
        row["file_name"]: row["texts"]
        for name in ("train", "validation")
        for row in map(json.loads, expected[f"{name}/metadata.jsonl"].splitlines())
    }
    for row in all_rows(data):
        assert row["texts"] == texts[row["file_name"]] or row == marked


def test_a_photo_that_has_changed_is_captioned_again(data, model):
    name = next(row for row in rows(data, "train") if row["text"] != "Zelda")["file_name"]
    caption(data, model)
    old = next(by_model(row) for row in all_rows(data) if row["file_name"] == name)
    photo(999, 32, 32).save(data / "train" / name)
    caption(data, model, "--num_beams", "2")
    caption(data, model)
    assert next(by_model(row) for row in all_rows(data) if row["file_name"] == name) != old


def test_a_finished_run_is_not_repeated(data, model, capsys):
    caption(data, model)
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    caption(data, model)
    assert "already have 15 captions by blip-tiny" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == times


def test_two_processes_caption_as_one_and_resume(data, model, tmp_path):
    caption(data, model, *SAMPLED)
    expected = contents(data)
    caption(data, model)
    with (tmp_path / "output").open("wb") as output:
        children = fork_several(lambda: caption(data, model, *SAMPLED), 2, output)
        wait_until(
            lambda: sum(path.stat().st_size > 0 for path in data.glob(".captions/*/process-*.jsonl")) == 2, children
        )
        for child in children:
            os.kill(child, signal.SIGKILL)
        assert exit_codes(children) == [-signal.SIGKILL] * 2
        assert contents(data) != expected
        again = exit_codes(fork_several(lambda: caption(data, model, *SAMPLED), 2, output))
    printed = (tmp_path / "output").read_text()
    assert again == [0, 0], printed
    assert printed.count("15 photos got") == 1
    assert contents(data) == expected


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num_captions", "0"), "--num_captions must be at least 1, but is 0"),
        (("--temperature", "0"), "--temperature must be above 0"),
        (("--top_p", "1.5"), "--top_p must be above 0 and at most 1"),
        (("--batch_size", "0"), "--batch_size must be at least 1"),
        (("--prompt", " "), "--prompt must be a text that is not empty"),
        (("--revision", "main"), "--revision is for models on the Hub"),
    ],
)
def test_bad_options(data, model, options, message):
    with pytest.raises(InputError, match=message):
        caption(data, model, *options)


def test_no_prepared_dataset(tmp_path, model):
    with pytest.raises(InputError, match="animal-ldm prepare PHOTOS"):
        caption(tmp_path, model)


def test_models_that_are_no_captioners(data, tmp_path, model):
    before = contents(data)
    with pytest.raises(InputError, match="there is no folder no/such/folder"):
        caption(data, "no/such/folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        caption(data, tmp_path / "empty")
    CLIPModel(CLIPConfig()).config.save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "vocab.json").write_text("{}")
    with pytest.raises(InputError, match="type clip, which does not write captions"):
        caption(data, tmp_path / "clip")
    code = save("blip", tmp_path / "code")
    config = json.loads((code / "config.json").read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "my.C"},
    }
    (code / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="code of its own, which is not run"):
        caption(data, code)
    assert contents(data) == before


def test_incomplete_captioners(data, tmp_path):
    other = save("blip", tmp_path / "other")
    blip()[0].vision_model.save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "model.safetensors").replace(other / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks .* of a captioner's weights, among them"):
        caption(data, other)
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be loaded as a captioner"):
        caption(data, other)
    (other / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded as a captioner"):
        caption(data, other)
    (other / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"incomplete: expected one of tokenizer\.json"):
        caption(data, other)


def test_a_model_of_the_hub_is_recorded_with_its_commit(data, tmp_path, monkeypatch, capsys):
    """From the cache of the Hub, as a download leaves it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--owner--blip-tiny"
    save("blip", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    caption(data, "owner/blip-tiny")
    assert f"15 photos got 15 captions by owner/blip-tiny (revision {commit})" in capsys.readouterr().out
    card = (data / "dataset_card.md").read_text()
    assert f"[owner/blip-tiny](https://huggingface.co/owner/blip-tiny), revision `{commit}`" in card
    assert sum(len(by_model(row, "owner/blip-tiny")) for row in all_rows(data)) == 15


def test_without_a_connection(data):
    with pytest.raises(InputError, match=r"cannot be fetched from the Hub.*Check the network connection"):
        caption(data, "nobody/nothing")


class NoSuchRepository(BaseHTTPRequestHandler):
    """Answers as the Hub does for a model that is not there."""

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


def test_no_such_model_on_the_hub(data, monkeypatch, capsys):
    with HTTPServer(("127.0.0.1", 0), NoSuchRepository) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        url = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
        with pytest.raises(SystemExit) as left:
            cli.main(["caption", str(data), "--model", "nobody/nothing", "--device", "cpu"])
        server.shutdown()
    printed = capsys.readouterr().err
    assert left.value.code == 2
    assert "the Hub has no model of that name that you may read" in printed and "Traceback" not in printed


def test_help_is_fast_because_it_imports_no_torch():
    script = (
        "import sys; from animal_ldm.cli import main\n"
        "try: main(['caption', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'accelerate', 'diffusers'} & sys.modules.keys()"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--num_captions" in run.stdout
