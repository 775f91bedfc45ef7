"""Which piece goes into which split: whole groups, by the hash of a name, in given shares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from whatwhere.tasks.drawn import SPLITS


def assign(
    sizes: Mapping[str, int], shares: Sequence[float] = (0.90, 0.05, 0.05)
) -> dict[str, str]:
    """The split of every group of `sizes` (name to tokens): {"train", "valid", "test"}.

    The groups are lined up by a hash of their names; the first go to test until it has its share
    of all tokens, the next to valid, the rest to train. Each split gets a group at least. The order
    does not depend on the machine or on the order of `sizes`, and a group that comes later moves
    no others but those at the two borders.

    ValueError with fewer than three groups.
    """
    if len(sizes) < 3:
        raise ValueError(
            f"train, valid and test need three groups at least; there are {len(sizes)}: "
            f"{', '.join(map(repr, sizes))}"
        )
    line = sorted(sizes, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    total, result, index = sum(sizes.values()), dict[str, str](), 0
    for split, share, later in (("test", shares[2], 2), ("valid", shares[1], 1)):
        taken = 0
        while index < len(line) - later and (not taken or taken < share * total):
            result[line[index]] = split
            taken += max(sizes[line[index]], 1)
            index += 1
    return result | dict.fromkeys(line[index:], SPLITS[0])
