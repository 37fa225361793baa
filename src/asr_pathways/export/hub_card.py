"""The README.md of a model folder, with the metadata that the Hugging Face hub reads (its docs, "Model cards")."""

from __future__ import annotations

from collections.abc import Mapping

from asr_pathways.bundle.layout import Score
from asr_pathways.formats import language_name, percent
from asr_pathways.model_folder.card import HubCard

TASK = "automatic-speech-recognition"


def hub_card(card: HubCard, name: str, sparsity: float, scores: Mapping[str, Score], sizes: Mapping[str, int]) -> str:
    """Metadata and text of the card of a Hugging Face model with the zeros of one language.

    Args:
        card: of the model, with the one language.
        name: of the model.
        sparsity: share of zeros in the layers that were pruned.
        scores: WER by language, where known.
        sizes: {key of the model's config: neurons}, of a copy without the neurons that were pruned.
    """
    from huggingface_hub import EvalResult, ModelCardData

    (language,) = card.languages
    score = scores.get(language)
    results = []
    if score is not None:
        result = EvalResult(
            task_type=TASK,
            dataset_type="own",
            dataset_name=f"own recordings, {score.words:,} words",
            metric_type="wer",
            metric_name="WER",
            metric_value=float(percent(score.wer)),
        )
        results.append(result)
    data = ModelCardData(
        language=language,
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=card.base,
        tags=["asr-pathways", "pruned", "sparse"],
        model_name=name,
        eval_results=results or None,
    )
    lines = ["---", data.to_yaml(), "---", f"# {name}", ""]
    source = f" of [{card.base}](https://huggingface.co/{card.base})" if card.base else ""
    kind = f"The {language_name(language)} pathway{source}"
    if sizes:
        kept = ", ".join(f"{key} {neurons:,}" for key, neurons in sizes.items())
        lines += [f"{kind}, a smaller dense model: {kept}.", ""]
    else:
        lines += [
            f"{kind}: {percent(sparsity)}% of the weights of its linear and convolution layers are zero, written into "
            "an ordinary dense model. It is as large and as fast as that; a bundle of asr-pathways stores no zeros and "
            "does not multiply by them.",
            "",
        ]
    if score is not None:
        lines += [f"WER: {percent(score.wer)}% of {score.words:,} words.", ""]
    if card.attribution:
        lines += ["## Sources of the data", "", *(f"- {' '.join(line.split())}" for line in card.attribution), ""]
    lines.append("The weights are under the licence of the model and data that they were made from.")
    return "\n".join(lines) + "\n"
