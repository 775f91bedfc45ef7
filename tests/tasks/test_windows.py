"""Laws of the windows: every token a target once, the same targets at every length, no state."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from whatwhere.tasks import common_span, sample_batch, windows


def test_windows_of_a_drawn_example():
    inputs, targets = windows(torch.arange(10, 19), 4)  # the drawing in the module's docstring
    assert inputs.tolist() == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert targets.tolist() == [[11, 12, 13, 14], [15, 16, 17, 18]]


@settings(deadline=None)  # a busy machine is no fault
@given(tokens=st.integers(2, 300), length=st.integers(1, 60), limit=st.integers(1, 400))
def test_targets_are_a_prefix_and_follow_their_inputs(tokens, length, limit):
    bound = min(tokens - 1, limit)
    assume(bound >= length)
    inputs, targets = windows(torch.arange(tokens), length, limit)
    scored = bound // length * length
    assert inputs.shape == targets.shape == (bound // length, length)
    assert inputs.flatten().tolist() == list(range(scored))
    assert targets.flatten().tolist() == list(range(1, scored + 1))


@settings(deadline=None)  # a busy machine is no fault
@given(tokens=st.integers(2, 500), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_a_common_span_scores_the_same_targets_at_every_length(tokens, lengths):
    stream = torch.arange(tokens)
    try:
        span = common_span(tokens, lengths)
    except ValueError:
        fits = [n for n in range(1, tokens) if all(n % length == 0 for length in lengths)]
        assert not fits
        return
    scored = {tuple(windows(stream, length, span)[1].flatten().tolist()) for length in lengths}
    assert scored == {tuple(range(1, span + 1))}
    longer = range(span + 1, tokens)
    assert not [n for n in longer if all(n % length == 0 for length in lengths)]


def test_a_limit_bounds_the_common_span():
    assert common_span(1000, [16, 64]) == 960
    assert common_span(1000, [16, 64], limit=200) == 192
    assert common_span(961, [16, 64]) == 960  # 961 tokens have 960 targets
    assert common_span(960, [16, 64]) == 896


def test_a_batch_holds_windows_of_the_stream():
    stream = torch.arange(100, 137)
    inputs, targets = sample_batch(stream, length=5, batch_size=200, seed=0, step=0)
    assert inputs.shape == targets.shape == (200, 5)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(5))
    # 32 places; missing the first or the last in 200 draws has probability 2 (31/32)^200 < 0.4 %,
    # and the draw is fixed by the seed.
    assert inputs.min() == 100
    assert targets.max() == 136


def test_a_batch_is_a_pure_function_of_seed_and_step():
    stream = torch.arange(5000)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = sample_batch(stream, 7, 3, seed=5, step=11)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    sample_batch(stream, 7, 3, seed=5, step=10)
    assert torch.equal(sample_batch(stream, 7, 3, seed=5, step=11)[0], first[0])


def test_no_two_runs_share_their_batches():
    stream = torch.arange(10**6)
    drawn = {
        tuple(sample_batch(stream, 2, 2, seed, step)[0].flatten().tolist())
        for seed in range(12)
        for step in range(12)
    }
    assert len(drawn) == 144


def test_offsets_are_uniform_over_steps():
    stream = torch.arange(12)
    drawn = torch.cat([sample_batch(stream, 3, 50, 0, step)[0][:, 0] for step in range(90)])
    counts = torch.bincount(drawn, minlength=9)
    assert len(counts) == 9
    # 4500 draws from 9 places: 500 each, standard deviation 21; five of them either way.
    assert (counts - 500).abs().max() < 105


def test_a_stream_that_just_fits_has_one_place():
    inputs, targets = sample_batch(torch.arange(6), 5, 2, seed=0, step=0)
    assert inputs.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert targets.tolist() == [[1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: windows(s, 0), "length=0 must be at least 1"),
        (lambda s: windows(s, 10), "length=10 does not fit: a stream of 10 tokens has at most 9"),
        (lambda s: windows(s, 5, limit=4), "limit=4 has at most 4 targets"),
        (lambda s: windows(s, 5, limit=0), "limit=0 must be at least 1"),
        (lambda s: windows(s[:0], 1), "0 tokens has at most 0"),
        (lambda s: common_span(10, [4, 6]), "a multiple of 12"),
        (lambda s: common_span(10, []), "lengths is empty"),
        (lambda s: common_span(10, [4, 0]), "lengths=0 must be at least 1"),
        (lambda s: sample_batch(s, 10, 1, 0, 0), "at least 11 tokens; this one has 10"),
        (lambda s: sample_batch(s, 0, 1, 0, 0), "length=0"),
        (lambda s: sample_batch(s, 3, 0, 0, 0), "batch_size=0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(10))
