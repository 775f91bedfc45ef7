"""Graphs of one training are not counted against another's."""

import pytest
import torch
from torch import Tensor

from whatwhere.study.compiling import compiled

made: list[int] = []


def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
    made.append(len(inputs))
    return graph


class Drawn:
    def __init__(self, by: float) -> None:
        self.by = by

    def times(self, x: Tensor, more: int = 1, *, less: int = 0) -> Tensor:
        return x * self.by + more - less


def doubled(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize("method", [False, True])
def test_each_has_graphs_of_its_own(method: bool) -> None:
    """Three trainings where torch would keep one graph."""
    made.clear()
    with torch._dynamo.config.patch(recompile_limit=1):
        for size in (2, 3, 4):
            function = Drawn(2.0).times if method else doubled
            fast = compiled(function, backend=counted, dynamic=False)
            x = torch.ones(size)
            assert torch.equal(fast(x), function(x))
            assert torch.equal(fast(x), function(x))
    assert len(made) == 3
