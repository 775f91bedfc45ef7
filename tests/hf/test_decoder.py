"""Our decoder as a Hugging Face model: the same numbers, through every door of transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerFast,
)

from whatwhere import hf
from whatwhere.encodings.table import encodings
from whatwhere.nn import Decoder, DecoderConfig

VOCAB = 29


def decoder(encoding: str = "pope", **sizes: Any) -> Decoder:
    """A tiny decoder whose every parameter is drawn, δ and biases too."""
    torch.manual_seed(0)
    given = {"width": 24, "layers": 2, "heads": 6, "kv_heads": 3, "head_dim": 8} | sizes
    model = Decoder(DecoderConfig(VOCAB, encoding=encoding, train_length=64, **given)).eval()
    for each in model.parameters():
        torch.nn.init.normal_(each, mean=1.0 if each.dim() == 1 else 0.0, std=0.3)
    return model


def tokens(batch: int = 2, n: int = 11) -> Tensor:
    return torch.randint(VOCAB, (batch, n), generator=torch.Generator().manual_seed(1))


def loaded(model: hf.DecoderForCausalLM, folder: Path, **options: Any) -> Any:
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, **options)


@pytest.mark.parametrize("encoding", [*encodings(), "inverse_leaky_rerope(rope)"])
def test_every_encoding_has_its_logits_saves_loads_and_generates(
    encoding: str, tmp_path: Path
) -> None:
    own = decoder(encoding)
    model = hf.DecoderForCausalLM.from_decoder(own)
    expected = own(tokens())
    assert torch.equal(model(tokens()).logits, expected)
    again = loaded(model, tmp_path)
    assert isinstance(again, hf.DecoderForCausalLM)
    assert torch.equal(again(tokens()).logits, expected)
    valid = torch.ones(2, 11, dtype=torch.int64)
    valid[0, :4] = 0
    continued = own.generate(tokens(), max_new_tokens=7, temperature=0, valid=valid.bool())
    found = again.generate(
        tokens(), attention_mask=valid, max_new_tokens=7, do_sample=False, pad_token_id=0
    )
    assert torch.equal(found, continued)


@pytest.mark.parametrize("tie", [True, False])
def test_tied_weights_stay_tied(tie: bool, tmp_path: Path) -> None:
    own = decoder(tie_embeddings=tie)
    again = loaded(hf.DecoderForCausalLM.from_decoder(own), tmp_path)
    assert (again.decoder.head.weight is again.decoder.embedding.weight) == tie
    assert torch.equal(again(tokens()).logits, own(tokens()))


def test_left_padding_does_not_change_a_row() -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder())
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, :5] = 0
    padded = model(tokens(), attention_mask=mask).logits[1, 5:]
    torch.testing.assert_close(padded, model(tokens()[1:, 5:]).logits[0], rtol=0, atol=2e-6)


def test_another_expression_is_used_and_saved(tmp_path: Path) -> None:
    own = decoder("pope")
    model = hf.DecoderForCausalLM.from_decoder(own)
    plain = model(tokens(n=200)).logits
    model.decoder.use("pope+yarn", factor=4)
    used = model(tokens(n=200)).logits
    assert not torch.allclose(plain, used, atol=1e-3)
    again = loaded(model, tmp_path)
    assert torch.equal(again(tokens(n=200)).logits, used)
    assert (again.config.encoding, again.config.factor) == ("pope+yarn", 4)
    assert again.config.max_position_embeddings == 4 * 64
    assert AutoConfig.from_pretrained(tmp_path).num_key_value_heads == 3


def test_the_expression_in_use_is_taken_over(tmp_path: Path) -> None:
    own = decoder("rope")
    own.use("rope+rerope(window=5)")
    again = loaded(hf.DecoderForCausalLM.from_decoder(own), tmp_path)
    assert again.config.encoding == "rope+rerope(window=5)"
    assert torch.equal(again(tokens()).logits, own(tokens()))


def test_half_precision_is_that_of_the_decoder(tmp_path: Path) -> None:
    own = decoder("rope")
    again = loaded(hf.DecoderForCausalLM.from_decoder(own), tmp_path, dtype=torch.bfloat16)
    assert torch.equal(again(tokens()).logits, copy.deepcopy(own).bfloat16()(tokens()))


def test_the_loss_is_the_next_tokens() -> None:
    own = decoder()
    model = hf.DecoderForCausalLM.from_decoder(own).train()
    labels = tokens().clone()
    labels[0, :6] = -100
    output = model(tokens(), labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(each.grad is not None for each in own.parameters())
    assert isinstance(model(tokens(), return_dict=False), tuple)


@pytest.mark.parametrize("wanted", [1, 4, torch.tensor([0, 5])])
def test_only_the_logits_that_are_kept(wanted: int | Tensor) -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder())
    index = slice(-wanted, None) if isinstance(wanted, int) else wanted
    kept = model(tokens(), logits_to_keep=wanted).logits
    torch.testing.assert_close(kept, model(tokens()).logits[:, index])


def test_a_cache_grows_call_by_call() -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder())
    cache = hf.DecoderCache(layers=2, capacity=3)
    whole = model(tokens(n=23)).logits
    parts = []
    for start, end in ((0, 2), (2, 3), (3, 10), (10, 23)):
        output = model(tokens(n=23)[:, start:end], past_key_values=cache)
        assert output.past_key_values is cache
        parts.append(output.logits)
    assert cache.get_seq_length() == 23
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-5)
    assert model(tokens()).past_key_values is None
    assert len(model(tokens(), use_cache=True).past_key_values) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_generation_with_a_cache_is_generation_without(options: dict[str, Any]) -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder())
    prompt = tokens(1, 6).repeat(1, 3)  # a pattern, so that looking it up finds something
    settled = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    if "prompt_lookup_num_tokens" in options:
        expected = model.generate(prompt, **settled)
    else:
        expected = model.generate(prompt, use_cache=False, **settled, **options)
    assert torch.equal(model.generate(prompt, **settled, **options), expected)


def test_generation_goes_on_from_a_cache() -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder())
    settled = {"do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    whole = model.generate(tokens(), max_new_tokens=12, **settled).sequences
    first = model.generate(tokens(), max_new_tokens=5, **settled)
    assert isinstance(first.past_key_values, hf.DecoderCache)
    rest = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=7, **settled
    )
    assert torch.equal(rest.sequences, whole)


def test_a_cache_forgets_repeats_and_selects() -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder())
    cache = model(tokens(), use_cache=True).past_key_values
    cache.crop(-4)
    cache.batch_repeat_interleave(2)
    assert (cache.get_seq_length(), cache.batch_size) == (7, 4)
    cache.batch_select_indices(torch.tensor([2, 0]))  # of rows 0, 0, 1, 1
    rows = tokens()[[1, 0]]
    logits = model(rows[:, 7:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(rows).logits[:, 7:], rtol=0, atol=1e-5)
    cache.reset()
    assert (cache.get_seq_length(), cache.batch_size) == (0, -1)
    model(tokens(batch=5), past_key_values=cache)


def words() -> tokenizers.Tokenizer:
    vocabulary = {f"w{i}": i for i in range(VOCAB - 1)} | {"<|endoftext|>": VOCAB - 1}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return inner


def test_a_tokenizer_is_saved_with_the_model(tmp_path: Path) -> None:
    model = hf.DecoderForCausalLM.from_decoder(decoder(), words())
    again = loaded(model, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("w3 w7").input_ids == [3, 7]
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id == VOCAB - 1
    given = PreTrainedTokenizerFast(tokenizer_object=words())
    hf.DecoderForCausalLM.from_decoder(decoder(), given)
    assert given.model_max_length != 64  # what is the caller's stays as it is


@pytest.mark.usefixtures("unchecked")
class TestBadInput:
    """Refusals, with the argument, the value and the remedy."""

    @pytest.fixture
    def model(self) -> Any:
        return hf.DecoderForCausalLM.from_decoder(decoder())

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"atention_mask": 1}, TypeError, "did you mean 'attention_mask'"),
            ({"output_attentions": True}, TypeError, "output_attentions is nothing"),
            ({"attention_mask": torch.ones(2, 10)}, ValueError, r"shape \(2, 10\); give \(2, 11\)"),
            ({"attention_mask": [[1]]}, TypeError, "attention_mask is list"),
            ({"past_key_values": DynamicCache()}, TypeError, "DynamicCache; give what"),
            ({"past_key_values": hf.DecoderCache(3)}, ValueError, "3 layers, the model 2"),
            ({"logits_to_keep": -1}, ValueError, "logits_to_keep is -1"),
            ({"logits_to_keep": 1, "labels": tokens()}, ValueError, "labels with logits_to_keep"),
        ],
        ids=str,
    )
    def test_calls(
        self, model: Any, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            model(tokens(), **arguments)

    def test_what_is_no_decoder(self) -> None:
        with pytest.raises(TypeError, match="decoder is Linear; give a whatwhere"):
            hf.DecoderForCausalLM.from_decoder(torch.nn.Linear(2, 2))  # type: ignore[arg-type]

    def test_tokenizers(self) -> None:
        with pytest.raises(TypeError, match="tokenizer is str"):
            hf.DecoderForCausalLM.from_decoder(decoder(), "gpt2")
        larger = words()
        larger.add_tokens(["one more"])
        with pytest.raises(ValueError, match="tokenizer has 30 tokens, the decoder 29"):
            hf.DecoderForCausalLM.from_decoder(decoder(), larger)

    def test_caches(self, model: Any) -> None:
        with pytest.raises(ValueError, match="cache_implementation is 'static'"):
            model.generate(tokens(), max_new_tokens=2, cache_implementation="static")
        cache = model(tokens(), use_cache=True).past_key_values
        for wrong in (4, -12):
            with pytest.raises(ValueError, match=f"tokens_to_remove is {wrong}; give 0 to -11"):
                cache.crop(wrong)
        with pytest.raises(TypeError, match="not through update"):
            cache.update(torch.ones(1), torch.ones(1), 0)

    def test_vocabulary(self, model: Any) -> None:
        with pytest.raises(ValueError, match="built for 29 tokens"):
            model.resize_token_embeddings(31)

    def test_configs(self) -> None:
        sizes = decoder().config.to_dict()
        with pytest.raises(ValueError, match="vocab_size is 30, but the decoder's sizes say 29"):
            hf.DecoderModelConfig(sizes=sizes, vocab_size=30)
        with pytest.raises(ValueError, match="did you mean 'width'"):
            hf.DecoderModelConfig(sizes=sizes | {"widht": 3})
        with pytest.raises(ValueError, match="did you mean 'pope'"):
            hf.DecoderModelConfig(sizes=sizes, encoding="popee")
        with pytest.raises(ValueError, match="sizes is None; give DecoderConfig"):
            hf.DecoderForCausalLM(hf.DecoderModelConfig())

    def test_a_checkpoint_that_lacks_weights(self, model: Any, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        model.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        del weights["decoder.norm.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks decoder\.norm\.weight"):
            AutoModelForCausalLM.from_pretrained(tmp_path)
