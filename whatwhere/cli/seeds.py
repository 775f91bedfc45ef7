"""Seeds as options write them."""

from __future__ import annotations

__all__ = ["chosen_seeds"]


def chosen_seeds(text: str, advice: str) -> tuple[int, ...]:
    """ "0-3,7" -> 0, 1, 2, 3, 7. ValueError, with `advice` on what to write, for anything else."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = (each.strip() for each in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--seeds is {text!r}; {advice}")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise ValueError(f"--seeds is {text!r}, which names none; {advice}")
    return tuple(dict.fromkeys(found))
