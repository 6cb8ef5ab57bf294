import pickle
from pathlib import Path

import pytest
import torch

from animal_ldm.errors import InputError, MachineError
from animal_ldm.training.checkpoints import (
    check_same_checkpoint,
    checkpoint_paths,
    load_checkpoint,
    prepare_output_dir,
    save_checkpoint,
)

IDENTITY = {"data": "abc", "batch_size": 8}


def model(value: float) -> torch.nn.Module:
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def test_newest_is_loaded_and_old_ones_go(tmp_path):
    for step in range(1, 5):
        save_checkpoint(tmp_path, 8 * step, IDENTITY, {"model": model(step)}, keep=2)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["images-0000000024.pt", "images-0000000032.pt"]
    restored = model(0)
    assert load_checkpoint(tmp_path, IDENTITY, {"model": restored}) == 32
    assert torch.equal(restored.weight, model(4).weight)


def test_half_written_file_is_not_a_checkpoint(tmp_path):
    path = save_checkpoint(tmp_path, 8, IDENTITY, {"model": model(1)}, keep=2)
    (path.parent / "images-0000000016.partial").write_bytes(path.read_bytes()[:100])
    assert load_checkpoint(tmp_path, IDENTITY, {"model": model(0)}) == 8


def test_nothing_is_lost_when_writing_fails(tmp_path):
    class Unwritable:
        def state_dict(self):
            raise OSError("no space left on device")

    save_checkpoint(tmp_path, 8, IDENTITY, {"model": model(1)}, keep=1)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, 16, IDENTITY, {"model": Unwritable()}, keep=1)
    assert load_checkpoint(tmp_path, IDENTITY, {"model": model(0)}) == 8


def test_another_run_is_refused_with_what_differs(tmp_path):
    save_checkpoint(tmp_path, 8, IDENTITY, {"model": model(1)}, keep=1)
    with pytest.raises(InputError, match=r"batch_size was 8, is 16.*--output_dir"):
        load_checkpoint(tmp_path, {**IDENTITY, "batch_size": 16}, {"model": model(0)})


def test_a_machine_without_the_checkpoint_is_named():
    check_same_checkpoint("run", ["images-16.pt"] * 4)
    with pytest.raises(InputError, match=r"is images-16.pt for the main process, but none for process 2\."):
        check_same_checkpoint("run", ["images-16.pt", "images-16.pt", "none", "none"])


def test_fresh_run_does_not_overwrite_an_old_one(tmp_path):
    save_checkpoint(tmp_path, 8, IDENTITY, {"model": model(1)}, keep=1)
    with pytest.raises(InputError, match="--resume"):
        prepare_output_dir(tmp_path, resume=False)
    prepare_output_dir(tmp_path, resume=True)
    assert load_checkpoint(tmp_path / "new", IDENTITY, {}) == 0


def test_a_damaged_checkpoint_says_so_and_which_one_is_left(tmp_path):
    save_checkpoint(tmp_path, 8, IDENTITY, {"model": model(1)}, keep=2)
    path = save_checkpoint(tmp_path, 16, IDENTITY, {"model": model(2)}, keep=2)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(torch.full((4,), 2.0).numpy().tobytes())] ^= 1
    for content in (bytes(flipped), whole[: len(whole) // 2], b"", pickle.dumps({"images_seen": Path("x")})):
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"images-0000000016.pt is damaged.*Delete it to resume from images-0+8.pt"
        ):
            load_checkpoint(tmp_path, IDENTITY, {"model": model(0)})


def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_is_missing(small_disk):
    large = torch.nn.Linear(512, 1024, bias=False)  # 2 MiB
    folder = small_disk(5)
    for images in (8, 16):
        save_checkpoint(folder, images, IDENTITY, {"model": large}, keep=3)
    with pytest.raises(
        MachineError, match=r"The next checkpoint needs 2\.1 MB, .* has 1\.\d MB left: \d\.\d MB are miss"
    ):
        save_checkpoint(folder, 24, IDENTITY, {"model": large}, keep=3)
    assert load_checkpoint(folder, IDENTITY, {"model": torch.nn.Linear(512, 1024, bias=False)}) == 16


def test_a_checkpoint_of_other_networks_does_not_fit(tmp_path):
    save_checkpoint(tmp_path, 8, IDENTITY, {"model": model(1)}, keep=2)
    with pytest.raises(InputError, match=r"The model in .* does not fit this run"):
        load_checkpoint(tmp_path, IDENTITY, {"model": torch.nn.Linear(3, 2)})


def test_entries_that_an_earlier_version_did_not_record_are_a_warning(tmp_path, caplog):
    save_checkpoint(tmp_path, 8, IDENTITY, {}, keep=2)
    assert load_checkpoint(tmp_path, {**IDENTITY, "snr_gamma": 5.0}, {}) == 8
    assert "did not record snr_gamma" in caplog.text


def test_what_stops_the_writing_of_a_checkpoint_is_what_is_raised(tmp_path):
    """Not torch.save's complaint about its unfinished file, which would hide a full disk and Ctrl-C."""
    resource = pytest.importorskip("resource", reason="no limits of POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path, 8, IDENTITY, {"model": torch.nn.Linear(500, 500)}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint_paths(tmp_path) == []
