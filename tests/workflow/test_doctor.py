"""What `animal-ldm doctor` finds, without a network."""

import dataclasses

import pytest

from animal_ldm.commands.doctor import main
from animal_ldm.training.models import UNETS
from animal_ldm.workflow import doctor
from animal_ldm.workflow.machine import Machine

SMALL = Machine("cpu", "a laptop", 2.0, 1.0, 0.0, has_inception=False, has_squeezenet=False)


def test_every_line_is_there_and_a_missing_network_is_no_failure(tmp_path, capsys):
    main(["--out", str(tmp_path / "new" / "folder"), "--no-speed"])
    printed = capsys.readouterr().out
    for name in ("device", "free memory", "free disk", "bf16", "token", "versions", "xformers", "Inception's weights"):
        assert f"\n{name}" in f"\n{printed}"
    assert "not reached" in printed and "torch " in printed and printed.count("ython 3") == 1
    assert not (tmp_path / "new").exists()


def test_a_small_machine_is_told_what_to_do():
    advice = {found.name: found.advice for found in doctor.of_device(SMALL, {"cpu_cores": 2, "torch_threads": 1})}
    assert "Close other programs" in advice["free memory"] and "Make room" in advice["free disk"]
    assert advice["bf16"] == "Train with float32."
    enough = dataclasses.replace(SMALL, kind="gpu", memory_gib=8.0, disk_gib=50.0, bf16_speedup=2.0)
    found = [*doctor.of_device(enough, {"cpu_cores": 2, "torch_threads": 1})]
    assert not any(finding.advice for finding in found)


@pytest.mark.slow
def test_a_step_of_every_preset_is_timed():
    found = [*doctor.of_speed(SMALL)]
    assert [finding.name for finding in found] == [f"unet {name}" for name in UNETS]
    assert all("images/s" in finding.value for finding in found)
