import json
import os
from pathlib import Path

import pytest

from animal_ldm import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "report.json"
    files.write_text(path, "before")
    with pytest.raises(RuntimeError), files.whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == ["report.json"]


def test_json_has_no_nan(tmp_path):
    value = {"loss": float("nan"), "sizes": (1, float("inf")), "name": "löwe"}
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", value)
    assert os.listdir(tmp_path) == []
    files.write_json(tmp_path / "x.json", files.without_nan(value))
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "sizes": [1, None], "name": "löwe"}
    assert "löwe" in text and text.endswith("}\n")


def test_cache_root(monkeypatch, tmp_path):
    for name in ("ANIMAL_LDM_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert files.cache_root() == Path.home() / ".cache" / "huggingface" / "animal_ldm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_root() == tmp_path / "xdg" / "huggingface" / "animal_ldm"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert files.cache_root() == tmp_path / "hf" / "animal_ldm"
    monkeypatch.setenv("ANIMAL_LDM_CACHE", str(tmp_path / "own"))
    assert files.cache_root() == tmp_path / "own"
    assert files.cache_root("elsewhere") == Path("elsewhere")
