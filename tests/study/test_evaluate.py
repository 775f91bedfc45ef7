"""The loss of a text, against one token at a time, and the memory it takes."""

import pytest
import torch
from study.toy import toy_config, toy_task

from whatwhere.study import evaluate
from whatwhere.study.model import build_model

TASK = toy_task()


def model(encoding="rope", **changes):
    return build_model(toy_config(**changes), encoding, TASK.vocab_size, 0)


def by_hand(decoder, stream, length, count):
    """-log p of tokens 1 … count, each given its window so far, one call a token."""
    total = 0.0
    with torch.no_grad():
        for index in range(count):
            start = index // length * length
            logits = decoder(stream[None, start : index + 1])[0, -1].double()
            total -= float(logits.log_softmax(-1)[stream[index + 1]])
    return total / count


@pytest.mark.parametrize(("length", "count"), [(1, 5), (7, 21), (16, 16)])
def test_it_is_the_mean_over_single_tokens(length, count):
    decoder = model().eval()
    value, n = evaluate.nll(decoder, TASK.test, length, limit=count + 1 if length > 1 else count)
    assert n == count
    assert value == pytest.approx(by_hand(decoder, TASK.test, length, count), rel=1e-5)


def test_an_untrained_model_is_about_uniform():
    value, _ = evaluate.nll(model(), TASK.test, 16)
    assert value == pytest.approx(torch.log(torch.tensor(11.0)).item(), abs=0.05)


def test_the_size_of_a_batch_changes_nothing(monkeypatch):
    decoder = model()
    whole = evaluate.nll(decoder, TASK.test, 16, 128)
    monkeypatch.setattr(evaluate, "TOKENS", 1)
    single = evaluate.nll(decoder, TASK.test, 16, 128)
    assert single[1] == whole[1] == 128
    assert single[0] == pytest.approx(whole[0], rel=1e-6)


def test_long_windows_of_several_terms_come_one_by_one():
    decoder = model(train_length=128, heads=4, kv_heads=4, width=16)
    assert evaluate.batch_of(decoder, 128) == evaluate.TOKENS // 128
    decoder.use("rope+rerope(window=64)")
    assert evaluate.dense(decoder, 2048)
    matrices = evaluate.batch_of(decoder, 2048) * 4 * 4 * 2048**2
    assert matrices * 6 <= evaluate.DENSE_BYTES
    assert evaluate.batch_of(decoder, 16 * 2048) == 1


def test_dropout_is_off_and_the_mode_comes_back():
    decoder = model(dropout=0.5).train()
    assert evaluate.nll(decoder, TASK.test, 16) == evaluate.nll(decoder, TASK.test, 16)
    assert decoder.training


def test_it_stops_when_asked():
    with pytest.raises(KeyboardInterrupt):
        evaluate.nll(model(), TASK.test, 16, stop=lambda: True)
