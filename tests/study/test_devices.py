"""Devices are refused by name and with the reason, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from whatwhere.cli.farming import Starter
from whatwhere.extend.search_plan import devices
from whatwhere.study.devices import usable


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that can be counted, but not touched."""

    def touched(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: touched\nand more lines")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", touched)


@pytest.mark.parametrize("touch", [True, False])
def test_what_is_there_and_what_is_not(touch: bool) -> None:
    usable("cpu", touch)
    for name in ("gpu", "cuda:99", ""):
        with pytest.raises(ValueError, match=f"^--device {name} can not be used: .+"):
            usable(name, touch)


def test_gpus_are_counted_where_they_are_not_touched(
    two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda", "cuda:0", "cuda:1"):
        usable(name, touch=False)
        with pytest.raises(ValueError, match=f"^--device {name} can not be used: .*touched$"):
            usable(name)
        with pytest.raises(ValueError, match=f"^--device {name} can not be used: .*touched$"):
            devices(name)
    with pytest.raises(ValueError, match="cuda:256 can not be used"):  # to PyTorch it is cuda:0
        usable("cuda:256", touch=False)
    with pytest.raises(ValueError, match=r"cuda:2 can not be used: PyTorch sees 2 GPUs$"):
        usable("cuda:2", touch=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"PyTorch sees no GPUs with CUDA_VISIBLE_DEVICES=$"):
        usable("cuda:0", touch=False)


def test_a_farm_is_refused_before_it_starts(two: None, tmp_path: Path) -> None:
    def starter(*names: str) -> Starter:
        return Starter(names, tmp_path, tmp_path, {}, [], board=None)  # type: ignore[arg-type]

    assert starter("cpu:0", "cuda:1", "cuda:0").devices == ("cpu:0", "cuda:1", "cuda:0")
    with pytest.raises(ValueError, match="--device cuda:2 can not be used"):
        starter("cuda:0", "cuda:2")
