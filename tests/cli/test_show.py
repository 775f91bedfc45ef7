"""show: the numbers behind the pictures against formulas; the pictures exist and differ."""

from pathlib import Path

import pytest
import torch

from whatwhere.cli.patterns import (
    decay_bound,
    relative_angles,
    score_pattern,
    seen_angles,
    smoothed,
)
from whatwhere.encodings import Context, Encoding, Shape, build
from whatwhere.encodings.alibi import slopes

LENGTH = 97


def make(text: str, train_length: int = 24, factor: float = 4.0) -> Encoding:
    return build(text, Shape(heads=6, head_dim=8), Context(train_length, factor))


def theta(pairs: int, base: float = 10000.0) -> torch.Tensor:
    return base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)


def test_angles_of_rope_are_distance_times_theta() -> None:
    angles = relative_angles(make("rope").rule(LENGTH), LENGTH)
    assert angles is not None
    torch.testing.assert_close(angles, theta(4)[:, None] * torch.arange(LENGTH).double())


def test_angles_of_interpolation_are_a_quarter_and_of_pope_twice_as_many() -> None:
    plain = relative_angles(make("rope").rule(LENGTH), LENGTH)
    squeezed = relative_angles(make("rope+linear").rule(LENGTH), LENGTH)
    assert plain is not None
    assert squeezed is not None
    torch.testing.assert_close(squeezed, plain / 4)
    polar = relative_angles(make("pope").rule(LENGTH), LENGTH)
    assert polar is not None
    torch.testing.assert_close(polar, theta(8)[:, None] * torch.arange(LENGTH).double())


def test_angles_of_rerope_stop_at_the_window() -> None:
    angles = relative_angles(make("rope+rerope(window=10)").rule(LENGTH), LENGTH)
    assert angles is not None
    distance = torch.arange(LENGTH).clamp(max=10).double()
    torch.testing.assert_close(angles, theta(4)[:, None] * distance)


def test_what_training_has_shown_is_at_most_a_turn() -> None:
    seen = seen_angles(make("rope").rule(24), 24)
    assert seen is not None
    torch.testing.assert_close(seen, (theta(4) * 23).clamp(max=2 * torch.pi))
    assert relative_angles(make("alibi").rule(LENGTH), LENGTH) is None
    assert decay_bound(make("alibi").rule(LENGTH), LENGTH) is None


def test_the_bound_is_the_papers() -> None:
    """arXiv 2104.09864, section 3.4.3: mean over m of |sum of the first m e^(I d theta)|."""
    bound = decay_bound(make("rope").rule(LENGTH), LENGTH)
    assert bound is not None
    for distance in (0, 1, 50):
        phases = [complex(torch.polar(torch.tensor(1.0).double(), t * distance)) for t in theta(4)]
        partial = [abs(sum(phases[: m + 1])) for m in range(4)]
        assert float(bound[distance]) == pytest.approx(sum(partial) / sum(range(1, 5)))
    assert float(bound[0]) == pytest.approx(1.0)


def test_alibis_pattern_is_its_slopes_and_nopes_is_flat() -> None:
    found = score_pattern(make("alibi"), LENGTH, draws=3)
    assert found.bias is not None
    expected = -torch.tensor(slopes(6))[:, None] * torch.arange(LENGTH)
    torch.testing.assert_close(found.bias, expected)
    assert not found.content
    flat = score_pattern(make("nope"), LENGTH, draws=3)
    torch.testing.assert_close(flat.mean, flat.mean[:1].expand(LENGTH))
    assert flat.bias is None


def test_ropes_expected_pattern_is_the_sum_of_cosines() -> None:
    """E<q, R q> = 2 sum_c cos(d theta_c) for q ~ N(0, 1): two channels a pair."""
    torch.manual_seed(0)
    found = score_pattern(make("rope"), LENGTH, draws=4000)
    distance = torch.arange(LENGTH).double()
    expected = 2 * (theta(4)[:, None] * distance).cos().sum(0) / 8**0.5
    # 24,000 samples of standard deviation at most 2: 5 standard errors
    assert float((found.mean - expected).abs().max()) < 5 * 2 / 24000**0.5


def test_a_learned_table_ends_where_it_ends() -> None:
    assert score_pattern(make("learned"), LENGTH, draws=3).mean.shape == (24,)


def test_smoothing_keeps_what_is_straight() -> None:
    at, mean = smoothed(torch.full((512,), 3.0))
    assert at[0] == 1
    assert at[-1] == 512
    torch.testing.assert_close(mean, torch.full_like(mean, 3.0))
    at, mean = smoothed(torch.arange(512.0))
    assert float((mean - (at - 1)).abs().max()) < 0.06 * 512


SMALL = ("--train-length", "16", "--head-dim", "8", "--heads", "2")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_figure_of_every_kind_is_written(run, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"figure.{suffix}"
    kind = {"png": "all", "svg": "angles", "pdf": "decay"}[suffix]
    factors = ("--factor", "2", "--factor", "3")
    done = run("show", "rope", "rope+dual_chunk", "pope+yarn", "alibi", "--out", str(out),
               "--kind", kind, *factors, *SMALL)  # fmt: skip
    assert (done.code, done.out) == (0, f"{out}\n")
    assert ("note: no angles of alibi" in done.err) == (kind != "decay")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert out.read_bytes().startswith(start)


def test_the_seed_decides_the_picture(run, tmp_path: Path) -> None:
    pictures = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.svg"
        run(
            "show", "rope", "t5", "--kind", "scores", "--seed", str(seed), "--out", str(out), *SMALL
        )
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]
