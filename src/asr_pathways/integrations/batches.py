"""Batches of one language, and what the loops have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn
from torch.utils.data import Dataset, default_collate

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import Pathways

LANGUAGE = "language"


class Items(Protocol):
    """A data set: items by index, each a mapping."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class LanguageBatches(Dataset[dict[str, Any]]):
    """A data set of batches, each of one language, made of a data set whose items have a ``language``.

    Load it without further batching: ``DataLoader(LanguageBatches(items, 8), batch_size=None, shuffle=True)``.
    Successive items of a language are in a batch; a loader shuffles whole batches.
    """

    def __init__(
        self,
        items: Items,
        size: int,
        collate: Callable[[list[dict[str, Any]]], Any] = default_collate,
        languages: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            items: each a mapping with the key ``language``, unless ``languages`` has it.
            size: of a batch, in items; the last of each language may be smaller.
            collate: makes a mapping of a list of items, which no longer have their language; it is added to the result.
            languages: of each item, where reading every item for it is slow.

        Raises:
            PathwaysError: if an item has no language, if ``languages`` are fewer or more than the items, or if ``size``
                is not positive.
        """
        if size < 1:
            raise PathwaysError(f"LanguageBatches: size {size}: a batch has one item or more")
        if languages is not None and len(languages) != len(items):
            raise PathwaysError(f"LanguageBatches: {len(languages)} languages for {len(items)} items")
        self._items = items
        self._collate = collate
        by_language: dict[str, list[int]] = {}
        for index in range(len(items)):
            language = languages[index] if languages is not None else language_of(items[index])
            by_language.setdefault(language, []).append(index)
        self._batches = [
            (language, indices[start : start + size])
            for language, indices in by_language.items()
            for start in range(0, len(indices), size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        language, indices = self._batches[index]
        items = [{k: v for k, v in self._items[one].items() if k != LANGUAGE} for one in indices]
        return {**self._collate(items), LANGUAGE: language}


def language_of(batch: Any) -> str:
    """The ``language`` of a batch, as a key or as an attribute: a code, or a list of the codes of its rows.

    Raises:
        PathwaysError: if there is none or it is no code, or if rows are of several languages.
    """
    language = batch.get(LANGUAGE) if isinstance(batch, Mapping) else getattr(batch, LANGUAGE, None)
    codes: list[Any] = list(dict.fromkeys(language)) if isinstance(language, (list, tuple)) else [language]
    if not all(isinstance(code, (str, type(None))) for code in codes):
        raise PathwaysError(
            f"the batch's {LANGUAGE!r} is {language!r:.60}: a code is wanted, such as 'fr', or one a row"
        )
    if not all(codes) or not codes:
        has = f"only {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"is a {type(batch).__name__}"
        raise PathwaysError(f"the batch has no {LANGUAGE!r} ({has}): let LanguageBatches or your collator add it")
    if len(codes) > 1:
        raise PathwaysError(
            f"the batch mixes {', '.join(sorted(codes))}: make batches of one language, such as LanguageBatches does"
        )
    return str(codes[0])


def refuse_adapters(pathways: Pathways) -> Pathways:
    """``pathways``; raises PathwaysError if LoRA's matrices are to be pruned."""
    for name in pathways.names:
        if ".lora_" in name:
            raise PathwaysError(
                f"{name} would be pruned: attach pathways before peft.get_peft_model, or with exclude=('*.lora_*',)"
            )
    return pathways


def require_part(pathways: Pathways, model: nn.Module) -> None:
    """Raises PathwaysError if the model of ``pathways`` is not in ``model``."""
    if not any(module is pathways.model for module in model.modules()):
        raise PathwaysError(
            "the pathways are of another model than the one that trains: attach to the object that the trainer gets"
        )
