"""CTC models (Graves et al. 2006) as speech models: wav2vec 2.0, HuBERT, WavLM, Parakeet, MMS, ..."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.data.languages import known_language, plain_language
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.base import Aligned, ExtractorFrontend, HubModel, Source
from asr_pathways.models.hub.files import file_of
from asr_pathways.models.speech_model import within_lengths
from asr_pathways.models.weights import reading

if TYPE_CHECKING:
    from asr_pathways.data.batches import Batch


UNMASKED_CONVOLUTIONS = ("data2vec-audio", "wav2vec2-conformer")
"""Kinds of models whose encoder has convolutions over time that take padding in, in transformers too."""


class Ctc(HubModel):
    """Any of transformers' ``...ForCTC``: one vocabulary, whatever the language."""

    unprunable = ("lm_head", "ctc_head", "*adapter_layer")
    blank: int

    def __init__(self, hub: Any, frontend: ExtractorFrontend, parts: list[Any]) -> None:
        super().__init__(hub, frontend, parts)
        self.blank = int(hub.config.pad_token_id)
        self.classifier = "lm_head" if hasattr(hub, "lm_head") else ""  # Parakeet's is a convolution
        # Models with group norm in their first layers were trained without a mask: padding is zeros to them.
        self._masks = bool(getattr(frontend.extractor, "return_attention_mask", True))
        group_norm = getattr(hub.config, "feat_extract_norm", "") == "group" or not self._masks
        adapter = bool(getattr(hub.config, "add_adapter", False))
        self._takes_padding_in = group_norm or adapter or hub.config.model_type in UNMASKED_CONVOLUTIONS

    def logits(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        """Features (B, T, ...) or waveforms (B, T), lengths (B,) -> scores (B, T', V) and their lengths (B,)."""
        scores: Tensor = self._run(self._inputs(features, lengths), language).logits
        return scores, self.output_lengths(lengths).clamp(max=scores.shape[1])

    def encodings(self, features: Tensor, lengths: Tensor, language: str) -> tuple[Tensor, Tensor]:
        if self._runs_alone(features, lengths):
            rows = [self.encodings(*row, language) for row in _rows(features, lengths)]
            encoded = torch.nn.utils.rnn.pad_sequence([one[0] for one, _ in rows], batch_first=True)
            return encoded, torch.cat([length for _, length in rows])
        inputs: dict[str, Any] = {**self._inputs(features, lengths), "output_hidden_states": True}
        encodings: Tensor = self._run(inputs, language).hidden_states[-1]
        return encodings, self._encoder_lengths(lengths).clamp(max=encodings.shape[1])

    def _runs_alone(self, features: Tensor, lengths: Tensor) -> bool:
        """Whether padding of this batch would change what the model makes of the rest."""
        return self._takes_padding_in and int(lengths.min()) < features.shape[1]

    def _inputs(self, features: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        inputs = {self.hub.main_input_name: features}
        if self._masks:
            inputs["attention_mask"] = within_lengths(lengths, features.shape[1]).long()
        return inputs

    def encodings_for(self, targets: Sequence[int]) -> int:
        """One for each, and a blank between two that are the same."""
        return len(targets) + sum(one == other for one, other in pairwise(targets))

    def _loss(self, batch: Batch) -> Tensor:
        """CTC loss in nats a token."""
        scores, lengths = self.logits(batch.features, batch.feature_lengths, batch.language)
        scores = scores.float().log_softmax(dim=-1).transpose(0, 1)
        loss = F.ctc_loss(scores, batch.targets, lengths, batch.target_lengths, self.blank, reduction="sum")
        return loss / batch.target_lengths.sum().clamp(min=1)

    def positions(self, batch: Batch) -> dict[str, Tensor]:
        """Also of wav2vec 2.0's convolutions of the waveform, one after the other, and of an adapter after the encoder,
        but for the inputs of its convolutions.
        """
        positions, config = {}, self.hub.config
        size, lengths = batch.features.shape[1], batch.feature_lengths
        strides = zip(getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ()), strict=True)
        for number, (kernel, stride) in enumerate(strides if batch.features.dim() == 2 else ()):
            positions[f"*.feature_extractor.conv_layers.{number}"] = within_lengths(lengths, size)
            size, lengths = (size - kernel) // stride + 1, (lengths - kernel) // stride + 1
        longest = self._encoder_lengths(torch.tensor([batch.features.shape[1]]))
        of_encoder = within_lengths(self._encoder_lengths(batch.feature_lengths), int(longest))
        return positions | {"*.adapter": super().positions(batch)["*"], "*": of_encoder}

    def prediction_lengths(self, batch: Batch) -> Tensor:
        return self.output_lengths(batch.feature_lengths)

    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        """The best token of each frame, repetitions and blanks left out."""
        return [row.tokens for row in self.aligned(features, lengths, language)]

    @torch.no_grad()
    def aligned(self, features: Tensor, lengths: Tensor, language: str) -> list[Aligned]:
        """As `decode`; a token has the frames that it is the best of, one after the other.

        What is found does not depend on the other utterances of the batch.
        """
        if self._runs_alone(features, lengths):
            return [one for row in _rows(features, lengths) for one in self.aligned(*row, language)]
        scores, lengths = self.logits(features, lengths, language)
        best, highest = scores.argmax(dim=-1), scores.amax(dim=-1)
        probabilities = (highest - scores.logsumexp(dim=-1)).exp()
        rows = zip(best.tolist(), probabilities.tolist(), lengths.tolist(), strict=True)
        return [self._path(row[:length], each[:length]) for row, each, length in rows]

    def _path(self, best: Sequence[int], probabilities: Sequence[float]) -> Aligned:
        path, frame = Aligned([], [], []), 0
        for token, repetitions in groupby(best):
            end = frame + sum(1 for _ in repetitions)
            if token != self.blank:
                path.tokens.append(token)
                path.spans.append((frame, end))
                path.probabilities.append(fmean(probabilities[frame:end]))
            frame = end
        return path

    def _run(self, inputs: Mapping[str, Any], language: str) -> Any:
        return self.hub(**inputs)

    def _encoder_lengths(self, lengths: Tensor) -> Tensor:
        """As `output_lengths`, but of the encoder: an adapter after it may leave out frames, and SEW puts some in."""
        config = self.hub.config
        if getattr(config, "add_adapter", False):
            return torch.as_tensor(self.hub._get_feat_extract_output_lengths(lengths, add_adapter=False)).long()
        return self.output_lengths(lengths) // getattr(config, "squeeze_factor", 1)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames that are scored (B,) from frames of features or samples (B,).

        Raises:
            PathwaysError: if transformers has no function for it.
        """
        for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
            if hasattr(self.hub, name):
                return torch.as_tensor(getattr(self.hub, name)(lengths)).long()
        raise PathwaysError(f"{type(self.hub).__name__} does not report how long its output is: not supported")


def _rows(features: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each utterance by itself, without padding, and its length (1,)."""
    return ((features[row : row + 1, :length], lengths[row : row + 1]) for row, length in enumerate(lengths.tolist()))


class Mms(Ctc):
    """MMS (Pratap et al. 2023, arXiv 2305.13516): wav2vec 2.0 with an adapter and an output layer a language.

    These are read from ``adapter.LANGUAGE.safetensors`` when a language is first loaded, and replace the model's
    while it runs. They are never pruned; each trains with its language.

    Args:
        tokenizer: with a vocabulary a language.
        source: where the adapters' files are.
    """

    of_languages = ("lm_head", "*adapter_layer")

    def __init__(self, hub: Any, frontend: ExtractorFrontend, parts: list[Any], tokenizer: Any, source: Source) -> None:
        super().__init__(hub, frontend, parts)
        self._source = source
        self._codes = mms_codes(tokenizer)
        self.languages = tuple(self._codes)
        self.heads = nn.ModuleDict()
        self._special = ""  # the code of the one language that it is a model of

    def load_languages(self, languages: Iterable[str]) -> None:
        for language in languages:
            self._head(language)

    def language_parameters(self, language: str) -> list[nn.Parameter]:
        return list(self._head(language).parameters())

    def symbols(self, language: str) -> int:
        return len(dict(self._head(language).items())["lm_head.weight"])

    def specialize(self, language: str) -> None:
        for name, tensor in self._head(language).items():
            module, _, leaf = name.rpartition(".")
            setattr(self.hub.get_submodule(module), leaf, nn.Parameter(tensor.detach()))
        self.hub.config.vocab_size = self.symbols(language)
        self._special = self._codes[known_language(language, self._codes)]

    def _run(self, inputs: Mapping[str, Any], language: str) -> Any:
        if self._special:
            return self.hub(**inputs)
        head = self._head(language)
        return torch.func.functional_call(self.hub, dict(head.items()), kwargs=dict(inputs))

    def _head(self, language: str) -> _Head:
        code = self._codes[known_language(language, self._codes)]
        if code not in self.heads:
            tensors = load_adapter_file(self._source, code)
            wanted = set(self.hub._get_adapters())
            if tensors.keys() != wanted:
                odd = sorted(tensors.keys() ^ wanted)[0]
                raise PathwaysError(f"{self._source}: adapter.{code}.safetensors is of another model: {odd}")
            self.heads[code] = _Head(tensors).to(self.hub.device)
        head = self.heads[code]
        assert isinstance(head, _Head)
        return head

    def save_weights(self, folder: Path) -> None:
        """Writes the folder, with the adapters of the languages that were loaded."""
        super().save_weights(folder)
        self._source = Source(str(folder))

    def _save_parts(self, folder: str) -> None:
        if self._special:
            self._parts[0].set_target_lang(self._special)
        super()._save_parts(folder)
        for code, head in self.heads.items():
            assert isinstance(head, _Head)
            state = {name: value.detach().cpu().contiguous() for name, value in head.items()}
            save_file(state, Path(folder) / f"adapter.{code}.safetensors", metadata={"format": "pt"})

    def load_weights(self, folder: Path) -> None:
        super().load_weights(folder)
        for code, head in self.heads.items():
            assert isinstance(head, _Head)
            head.load(load_adapter_file(Source(str(folder)), code))


class _Head(nn.Module):
    """The tensors of one language, by their names in the model (which have dots: they get numbers here)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = sorted(tensors)
        self.tensors = nn.ParameterList([nn.Parameter(tensors[name].float()) for name in self._names])

    def items(self) -> Iterable[tuple[str, Tensor]]:
        return zip(self._names, self.tensors, strict=True)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.items():
            parameter.copy_(tensors[name])


def mms_codes(tokenizer: Any) -> dict[str, str]:
    """{plain code: the model's code} of the languages that an MMS tokenizer has vocabularies of.

    The second script or dialect of a language keeps the model's code.
    """
    codes: dict[str, str] = {}
    for code in tokenizer.vocab:
        plain = plain_language(code)
        codes[code if plain in codes else plain] = code
    return codes


def load_adapter_file(source: Source, code: str) -> dict[str, Tensor]:
    """The tensors in ``adapter.CODE.safetensors`` of a folder, or of a model on the hub.

    Raises:
        PathwaysError: if there is no such file, or it is broken.
    """
    name = f"adapter.{code}.safetensors"
    try:
        path = file_of(source, name)
    except (OSError, ValueError):  # of the hub
        path = None
    if path is None:
        raise PathwaysError(f"{source}: no {name}: put the adapter of that language there")
    with reading(path, "adapter"):
        return dict(load_file(path))
