"""Models to time: random weights, as fast as trained ones, with masks of a given sparsity."""

from __future__ import annotations

import numpy as np
import torch

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.data.features import Fbank
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.card import ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.presets import Preset, preset
from asr_pathways.models.transducer import MAX_SYMBOLS_PER_FRAME, Transducer
from asr_pathways.pruning import PathwayConfig, Pathways, matching
from asr_pathways.runtime.streaming import FRAME

LANGUAGES = ("en", "es", "fr", "it", "ru")
PIECES_A_SECOND = 4.0
"""About as many as speech has; a word piece costs a step of the predictor and one of the joiner."""

PIECES = 1024

NOISE = 0.2
"""Of the logarithm of weights: at 70%, the masks of two languages then overlap as trained ones do (IoU about 0.7)."""


def random_model(
    name: Preset, chunk: float, tokenizer: Tokenizer, sparsity: float, granularity: str, languages: int = 1
) -> AsrModel:
    """A pruned recogniser whose encoder has segments of ``chunk`` seconds, and which emits as often as on speech.

    ``tokenizer`` determines the size of the vocabulary.
    """
    torch.manual_seed(0)
    config = preset(name, tokenizer.vocab_size)
    segment = max(1, round(chunk / FRAME))
    encoder = config.encoder.model_copy(update={"segment": segment})
    model = Transducer(config.model_copy(update={"encoder": encoder, "ctc_weight": 0.0})).eval()
    model.set_feature_statistics(torch.full((encoder.features,), -8.0), torch.full((encoder.features,), 4.0))
    asr = AsrModel(model, tokenizer, ModelCard(model=model.config, languages=LANGUAGES[:languages]))
    _prune(asr, sparsity, granularity)
    _make_emit(asr)
    return asr


def _prune(asr: AsrModel, sparsity: float, granularity: str) -> None:
    """Pathways by magnitude, as it is under another noise for each language."""
    model = asr.model
    config = PathwayConfig(sparsity=sparsity, granularity=granularity, exclude=matching(model, model.unprunable))
    pathways = Pathways.attach(model, config, asr.languages)
    generator = torch.Generator().manual_seed(0)
    weights = [model.get_parameter(name) for name in pathways.names]
    originals = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for language in pathways.languages:
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original * torch.exp(NOISE * torch.randn(weight.shape, generator=generator)))
            pathways.adapt(language)
        for weight, original in zip(weights, originals, strict=True):
            weight.copy_(original)
    asr.pathways = pathways


def some_tokenizer() -> Tokenizer:
    """`PIECES` word pieces of random words."""
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (4000, 6))
    return Tokenizer.train([" ".join("".join(word) for word in line) for line in letters.reshape(-1, 8, 6)], PIECES)


def sound(seconds: float) -> Samples:
    """Noise whose loudness changes as speech's does: samples (N,) at 16 kHz."""
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE))
    time = np.arange(len(noise)) / SAMPLE_RATE
    return (noise * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


@torch.no_grad()
def _make_emit(asr: AsrModel) -> None:
    """Lowers the bias of blank, so that a few frames emit, each as many word pieces as a frame may.

    The predictor has no effect: with random ones search either never emits or always.
    """
    model = asr.model
    assert isinstance(model, Transducer)
    model.joiner.prediction.weight.zero_()
    features = Fbank()(sound(20.0))[None]
    with asr.use(asr.languages[0]):
        encodings, _ = model.encodings(features, torch.tensor([features.shape[1]]))
        scores = model.joiner(encodings, model.predictor(torch.tensor([[model.blank]]))[0])[0, :, 0]
    margin = scores[:, :-1].amax(dim=1) - scores[:, -1]
    model.joiner.output.bias[-1] += margin.quantile(1 - PIECES_A_SECOND * FRAME / MAX_SYMBOLS_PER_FRAME)
