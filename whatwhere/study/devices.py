"""Devices by the names that `--device` takes."""

from __future__ import annotations

import os

import torch

from whatwhere.errors import first_line

__all__ = ["usable"]


def usable(name: str, touch: bool = True) -> None:
    """Raise ValueError, with the reason, for a device that can not be used.

    touch: put a tensor on it, the surest test. Without, GPUs are only counted: a process that
    starts others would hold a context on each of theirs for as long as they run, and a GPU in
    exclusive mode would then refuse them.
    """
    reason = ""
    try:
        device = torch.device(name)
        if device.type == "cuda" and not touch:
            # From the name: PyTorch keeps eight bits of an index.
            reason = _uncounted(int(name.partition(":")[2] or 0))
        else:
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
    if reason:
        raise ValueError(f"--device {name} can not be used: {reason}")


def _uncounted(index: int) -> str:
    seen = torch.cuda.device_count()
    if index < seen:
        return ""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = "" if shown is None else f" with CUDA_VISIBLE_DEVICES={shown}"
    return f"PyTorch sees {seen or 'no'} GPU{'s' * (seen != 1)}{why}"
