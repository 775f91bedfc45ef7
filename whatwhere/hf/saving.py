"""What a model's config says while another encoding is in force, so that what is saved is true."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whatwhere.hf.resolve import Choice, Wanted
from whatwhere.hf.write import written

if TYPE_CHECKING:
    from whatwhere.hf.handle import Handle

__all__ = ["STORED", "change", "tell"]

#: Where a config keeps an encoding that rope_parameters can not say.
STORED = "whatwhere"

_MISSING = object()


def tell(
    handle: Handle,
    model: Any,
    config: Any,
    wanted: Wanted,
    choices: Mapping[str, Choice],
    learned: bool,
) -> None:
    """Write the encoding into the config: as rope_parameters where there is such a form.

    Where there is none, under `STORED`, and `model.save_pretrained` warns with the reason.
    `learned`: whether the encoding has parameters of its own.
    """
    try:
        form = written(config, wanted, choices)
    except ValueError as error:
        if all(choice.expression for choice in choices.values()):
            change(handle, config, STORED, handle.expressions)
        model.save_pretrained = _Saving(model, str(error), learned)
        handle.later(lambda: model.__dict__.pop("save_pretrained", None))
        return
    if wanted is not None:
        change(handle, config, "rope_parameters", form.parameters)
        if form.longest is not None:
            longest = max(form.longest, config.max_position_embeddings)
            change(handle, config, "max_position_embeddings", longest)


def change(handle: Handle, config: Any, name: str, value: Any) -> None:
    """Change an attribute of the config until `undo`."""
    before = getattr(config, name, _MISSING)
    setattr(config, name, value)
    if before is _MISSING:
        handle.later(lambda: delattr(config, name))
    else:
        handle.later(lambda: setattr(config, name, before))


class _Saving:
    """`save_pretrained` of a model whose encoding has no form in a config: it says so first."""

    def __init__(self, model: Any, reason: str, learned: bool) -> None:
        self.model, self.reason, self.learned = model, reason, learned

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        again = "hf.use(model) of whatwhere reads the encoding from the config and applies it again"
        if self.learned:
            again += ", with fresh parameters: load those saved (…rotary_emb.encodings…) after it"
        warnings.warn(
            f"{self.reason}. Plain transformers will run what is saved with its former rotation; "
            f"{again}",
            UserWarning,
            stacklevel=2,
        )
        return type(self.model).save_pretrained(self.model, *arguments, **options)
