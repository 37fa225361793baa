"""``export --format hf``: one language of a pruned model as an ordinary dense model, with the zeros written in.

Of pathways of whole neurons it is a smaller model, without the neurons that were dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_pathways.bundle.layout import Score
from asr_pathways.errors import PathwaysError
from asr_pathways.export.hub_card import hub_card
from asr_pathways.files import atomic_folder
from asr_pathways.model_folder.card import HubCard
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.base import HubModel


def write_dense_copy(
    asr: AsrModel, out: Path, languages: Sequence[str] | None, scores: Mapping[str, Score] | None = None
) -> dict[str, int]:
    """Writes a MODEL folder without pathways; that of a Hugging Face model loads in transformers, and has a README.md.

    The weights of ``asr`` are overwritten.

    Args:
        asr: with pathways.
        out: the folder.
        languages: one; None if there is only one.
        scores: WER by language, for README.md.

    Returns:
        {key of the model's config: neurons of its feed-forward layers}, where they became fewer.

    Raises:
        PathwaysError: if there are no pathways, not just one language is chosen, or it has word pieces of its own.
    """
    pathways = asr.pathways
    if pathways is None:
        raise PathwaysError("the model has no pathways: it is a dense model already")
    chosen = asr.check_languages(languages)
    if len(chosen) != 1:
        raise PathwaysError(
            f"a dense copy has the zeros of one language: choose with --languages one of {' '.join(chosen)}"
        )
    (language,) = chosen
    if language in asr.card.added:
        raise PathwaysError(f"{language} has word pieces of its own, for which a dense copy has no place: use a bundle")
    if out.is_dir() and any(out.iterdir()):
        raise PathwaysError(f"{out}: has files in it: choose another folder")
    sparsity, neurons = pathways.summary().sparsity[language], pathways.neurons(language)
    network, state = pathways.model, pathways.extract(language)
    pathways.detach()
    network.load_state_dict(state)
    if isinstance(asr.model, HubModel):
        asr.model.specialize(language)
    sizes = asr.model.drop_neurons(neurons) if neurons else {}
    card = asr.card.model_copy(update={"languages": (language,), "added": ()})
    alone = AsrModel(asr.model, asr.tokenizer, card)
    alone.note_sizes()
    with atomic_folder(out) as folder:
        save_model(folder, alone)
        if isinstance(card, HubCard):
            text = hub_card(card, out.name, sparsity, scores or {}, sizes)
            (folder / "README.md").write_text(text, encoding="utf-8")
    return sizes
