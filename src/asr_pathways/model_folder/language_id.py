"""Which language is spoken: a linear head on pooled encodings, fitted once and kept in the MODEL folder; without one,
the probabilities of Whisper's own language tokens.

Measured and rejected: choosing the pathway whose transcript has the best score. On pathways that share their weights it
is right one time in four among five languages, and needs a whole decoding for each (see docs/models.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import SPLITS, load_cuts, spoken_rows
from asr_pathways.data.languages import find_language
from asr_pathways.data.left_out import LeftOut
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path, parse_json
from asr_pathways.model_folder.card import IDENTIFIER
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel

DECAY = 1e-2
"""Weight decay of the head; encodings are wide and utterances few."""

UTTERANCES = 2000
"""Of a language and a split at most about so many are used: a linear head needs no more."""

MAX_LEFT_OUT = 100
"""Utterances that may be broken."""


class LanguageIdentifier:
    """Softmax regression on normalised embeddings.

    Args:
        languages: L codes.
        mean, scale: (D,), the normalisation of embeddings.
        weight, bias: (D, L) and (L,).
    """

    def __init__(self, languages: Sequence[str], mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.languages = tuple(languages)
        self._tensors = {"mean": mean, "scale": scale, "weight": weight, "bias": bias}

    @classmethod
    def fit(cls, embeddings: Tensor, labels: Sequence[str]) -> LanguageIdentifier:
        """Fits embeddings (N, D) to their languages by L-BFGS.

        Raises:
            PathwaysError: if there are fewer than two languages.
        """
        languages = sorted(set(labels))
        if len(languages) < 2:
            raise PathwaysError(f"language identification needs two languages; the data are in {' '.join(languages)}")
        targets = torch.tensor([languages.index(label) for label in labels])
        mean, scale = embeddings.mean(0), 1 / embeddings.std(0).clamp(min=1e-4)
        normal = (embeddings - mean) * scale
        weight = torch.zeros(embeddings.shape[1], len(languages), requires_grad=True)
        bias = torch.zeros(len(languages), requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")
        counts = torch.bincount(targets).float()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(normal @ weight + bias, targets, counts.mean() / counts)
            loss = loss + DECAY * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return cls(languages, mean, scale, weight.detach(), bias.detach())

    def probabilities(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) -> the probability of each language (N, L).

        Raises:
            PathwaysError: if those that it was fitted to were of another size.
        """
        tensors = self._tensors
        if embeddings.shape[1] != len(tensors["mean"]):
            raise PathwaysError("the language identifier is of another model: fit one with `asr-pathways identify`")
        normal = (embeddings.cpu() - tensors["mean"]) * tensors["scale"]
        return (normal @ tensors["weight"] + tensors["bias"]).softmax(-1)

    def save(self, folder: Path) -> None:
        """Writes ``language_id.safetensors``, whole or not at all."""
        with atomic_path(folder / IDENTIFIER) as temporary:
            save_file(self._tensors, temporary, metadata={"languages": json.dumps(self.languages)})

    @classmethod
    def load(cls, folder: Path) -> LanguageIdentifier:
        """Reads what `save` wrote.

        Raises:
            PathwaysError: if there is none, or it is broken.
        """
        path = folder / IDENTIFIER
        if not path.is_file():
            raise PathwaysError(
                f"{folder}: no language identifier yet: fit one with `asr-pathways identify {folder} --data DIR`"
            )
        return cls.read(path, path)

    @classmethod
    def read(cls, path: Path, where: Path) -> LanguageIdentifier:
        """Reads a file; errors name ``where``.

        Raises:
            PathwaysError: if it is broken.
        """
        try:
            with safe_open(path, framework="pt") as stream:
                languages = parse_json((stream.metadata() or {})["languages"])
                tensors = {name: stream.get_tensor(name) for name in ("mean", "scale", "weight", "bias")}
                if not isinstance(languages, list) or not all(isinstance(code, str) for code in languages):
                    raise ValueError("its languages are no list of codes")
                width, count = len(tensors["mean"]), len(languages)
                wanted = {"mean": (width,), "scale": (width,), "weight": (width, count), "bias": (count,)}
                if any(tuple(tensor.shape) != wanted[name] for name, tensor in tensors.items()) or count < 2:
                    raise ValueError("its tensors do not fit each other")
                if any(tensor.dtype != torch.float32 or not tensor.isfinite().all() for tensor in tensors.values()):
                    raise ValueError("its tensors are not float32 ones of finite values")
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise PathwaysError(f"{where}: not a language identifier: {error}") from None
        return cls(languages, **tensors)


@torch.no_grad()
def embed(model: SpeechModel, features: Tensor, lengths: Tensor, language: str) -> Tensor:
    """Features (B, T, ...), lengths (B,) -> mean and standard deviation over time of the encodings (B, 2 D)."""
    encodings, lengths = model.encodings(features, lengths, language)
    rows = [row[: max(1, int(length))] for row, length in zip(encodings, lengths, strict=True)]
    return torch.stack([torch.cat((row.mean(0), row.std(0, unbiased=False))) for row in rows]).float()


def embeddings_of(
    asr: AsrModel, batches: Iterable[Batch], description: str, total: int | None = None
) -> tuple[Tensor, list[str]]:
    """Embeddings (N, D) of all utterances by the first pathway, whatever their language, and their languages' codes.

    Codes are the model's, where it knows the language; ``total`` is the number of utterances, for the progress bar.
    """
    first = asr.languages[0]
    embeddings, labels = [], []
    with asr.inference(first):
        for batch in track(batches, description, total, len):
            batch = batch.to(asr.device)
            embeddings.append(embed(asr.model, batch.features, batch.feature_lengths, first).cpu())
            labels += [find_language(batch.language, asr.languages) or batch.language] * len(batch)
    return torch.cat(embeddings), labels


def fit_identifier(
    asr: AsrModel, data: Path, languages: Sequence[str] | None = None
) -> tuple[LanguageIdentifier, dict[str, dict[str, float]]]:
    """Fits an identifier of the model's languages, or of some, on the train split; its accuracy on dev and test.

    Of each language and split at most :data:`UTTERANCES` are used. Those that are broken are left out, as in training.

    Returns:
        The identifier, and {split: {language: share of utterances identified right}}.

    Raises:
        PathwaysError: if too much of the data is broken, or the train split has fewer than two of the languages, or
            another none.
    """
    left_out = LeftOut(MAX_LEFT_OUT)
    asked = languages and asr.languages_for(languages, [language for language, *_ in spoken_rows(data, "train")])
    cuts = {split: _sample(asr, data, split, left_out, asked) for split in SPLITS}

    def embedded(split: str) -> tuple[Tensor, list[str]]:
        model = asr.model
        options: dict[str, Any] = {"max_seconds": 60, "frontend": model.frontend, "length_error": model.length_error}
        batches = eval_batches(cuts[split], left_out=left_out, **options)
        return embeddings_of(asr, batches, split, len(cuts[split]))

    identifier = LanguageIdentifier.fit(*embedded("train"))
    right: dict[str, dict[str, float]] = {}
    for split in SPLITS[1:]:
        embeddings, labels = embedded(split)
        best = [identifier.languages[index] for index in identifier.probabilities(embeddings).argmax(-1).tolist()]
        correct = Counter(label for label, language in zip(labels, best, strict=True) if label == language)
        right[split] = {language: correct[language] / count for language, count in sorted(Counter(labels).items())}
    return identifier, right


def choices(
    asr: AsrModel, identifier: LanguageIdentifier | None, languages: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The languages that can be identified: all, or those asked for.

    Raises:
        PathwaysError: if the model or its identifier does not know one of them.
    """
    known = asr.languages if identifier is None else identifier.languages
    if languages is None:
        return known
    asked = asr.check_languages(languages)
    if unknown := [language for language in asked if language not in known]:
        raise PathwaysError(
            f"the language identifier tells {' '.join(known)} apart, not {' '.join(unknown)}: fit it anew"
        )
    return asked


def rank(
    asr: AsrModel, identifier: LanguageIdentifier | None, features: Tensor, languages: Sequence[str] | None = None
) -> list[tuple[str, float]]:
    """The languages of one utterance's features (T, ...), the likeliest first, with their probabilities.

    Args:
        asr: the model.
        identifier: a fitted one; None: the model tells its languages apart by itself.
        features: of the utterance.
        languages: to choose among, as from `choices`; None: all.
    """
    features = features[None].to(asr.device)
    lengths = torch.tensor([features.shape[1]], device=asr.device)
    if identifier is None:
        shares = _of_model(asr, features, lengths)
    else:
        with asr.inference(first := asr.languages[0]):
            embedding = embed(asr.model, features, lengths, first)
        shares = dict(zip(identifier.languages, identifier.probabilities(embedding)[0].tolist(), strict=True))
    chosen = {language: shares[language] for language in languages or shares}
    total = sum(chosen.values()) or 1.0
    return sorted(((language, share / total) for language, share in chosen.items()), key=lambda pair: -pair[1])


def _of_model(asr: AsrModel, features: Tensor, lengths: Tensor) -> dict[str, float]:
    """What a model that tells languages apart assigns to each of ours: features (1, T, ...) and their lengths (1,).

    Of a pruned model it is the mean over all pathways: each was trained on one language.
    """
    model, languages = asr.model, asr.languages
    total = torch.zeros(len(model.languages))
    for language in languages if asr.pathways is not None else languages[:1]:
        with asr.inference(language):
            total += model.language_probabilities(features, lengths)[0].cpu()
    known = {language: find_language(language, model.languages) for language in languages}
    places = {language: model.languages.index(code) for language, code in known.items() if code is not None}
    of_all = sum(float(total[place]) for place in places.values()) or 1.0
    return {language: float(total[place]) / of_all for language, place in places.items()}


def _sample(asr: AsrModel, data: Path, split: str, left_out: LeftOut, languages: Sequence[str] | None) -> list[Any]:
    """Cuts of the model's languages, or of those asked for, that fit its window, evenly out of all of a language."""
    by_language: dict[str, list[Any]] = {}
    for cut in load_cuts(data, split, languages, left_out=left_out):
        if cut.duration <= asr.model.window:
            by_language.setdefault(cut.supervisions[0].language, []).append(cut)
    known = [code for code in sorted(by_language) if not asr.languages or find_language(code, asr.languages)]
    least = 2 if split == "train" else 1
    if len(known) < least:
        present = " ".join(known) or "none"
        raise PathwaysError(
            f"{data}: language identification needs {least} of the model's languages in {split}: {present} there"
        )
    return [cut for one in known for cut in by_language[one][:: -(-len(by_language[one]) // UTTERANCES)]]
