"""The number of frequencies is a number under torch.compile, whatever other encodings were met."""

import torch

import whatwhere as ww


def test_encodings_of_two_head_dims_compile_in_one_process() -> None:
    seen: list[int] = []

    @torch.compiler.assume_constant_result
    def chosen(count: int) -> int:
        seen.append(count)
        return count

    def step(turns: torch.Tensor) -> torch.Tensor:
        return turns * chosen(turns.shape[0])

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for dim in (8, 16, 32):
        angles = ww.make("rope", heads=1, head_dim=dim, train_length=8).rule(8).only.key.angles
        assert torch.equal(compiled(angles.turns), angles.turns * (dim // 2))
    assert seen == [4, 8, 16]
