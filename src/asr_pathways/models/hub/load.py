"""From the name or folder of a Hugging Face model to an adapter of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from asr_pathways.data.tokenizer import TextCodec
from asr_pathways.errors import PathwaysError
from asr_pathways.models.hub.base import ExtractorFrontend, Source
from asr_pathways.models.hub.codec import HubTokenizer, MmsTokenizer
from asr_pathways.models.hub.ctc import Ctc, Mms, mms_codes
from asr_pathways.models.hub.remote import own_folder, pinned
from asr_pathways.models.hub.transducer import HubTransducer
from asr_pathways.models.hub.whisper import Whisper
from asr_pathways.models.speech_model import SpeechModel

Loaded = tuple[SpeechModel, TextCodec]
Take = Callable[[Any, Any], Any]


def load_hub_model(name: str, take: Take | None = None) -> Loaded:
    """Reads a model's folder, or fetches it by its name on the hub; safetensors only, nothing is unpickled.

    All files are of one revision. Where none is named, it is the newest, and a line on stderr says which.

    Args:
        name: of the folder, or on the hub (``owner/model``, or ``owner/model@revision`` for one that stays the same).
        take: makes the network from its class and config, for a folder without weights.

    Raises:
        PathwaysError: if transformers is not installed, the model is not to be had, or is of a kind that is not
            supported; the kinds that are get named.
    """
    transformers = _transformers(name)
    with _told(name):
        source = pinned(Source.of(name))
        config = transformers.AutoConfig.from_pretrained(source.name, **source.options)
    architecture = (config.architectures or ["a model of no known architecture"])[0]
    loader = LOADERS.get(architecture)
    if loader is None:
        raise PathwaysError(f"{name}: {architecture} is not supported; these are: {', '.join(sorted(LOADERS))}")
    with _told(name):
        kind = getattr(transformers, architecture)
        return loader(source, config, _network(source, kind) if take is None else take(kind, config))


def own_model_folder(name: str, card: str) -> tuple[str, Path | None]:
    """The name of a model on the hub with the commit that it means now, and its folder if that is one of ours.

    Args:
        name: ``owner/model``, or ``owner/model@revision``.
        card: the file by which folders of ours are known.

    Raises:
        PathwaysError: if transformers is not installed, or the model is not to be had.
    """
    _transformers(name)
    with _told(name):
        source = pinned(Source.of(name))
        return str(source), own_folder(source, card)


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise PathwaysError(f"{name}: needs transformers: pip install 'asr-pathways[hf]'") from None
    transformers.logging.disable_progress_bar()
    return transformers


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever transformers and its tokenizers raise for a broken or missing part becomes one line with the name."""
    try:
        yield
    except PathwaysError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PathwaysError(f"{name}: cannot load this Hugging Face model: {reason:.300}") from error


def _network(source: Source, kind: Any) -> Any:
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True, **source.options}
    network, report = kind.from_pretrained(source.name, **options)
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random ones
        raise PathwaysError(f"{source}: its files lack {len(missing)} tensors of the model, such as {missing[0]}")
    return network


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.name, **source.options)


def _whisper(source: Source, config: Any, network: Any) -> Loaded:
    from transformers import WhisperFeatureExtractor

    if (Path(source.name) / "preprocessor_config.json").is_file() or not Path(source.name).is_dir():
        extractor = WhisperFeatureExtractor.from_pretrained(source.name, **source.options)
    else:  # a converted checkpoint often lacks it; only the number of bins differs between Whisper models
        extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    tokenizer = _tokenizer(source)
    return Whisper(network, tokenizer, extractor), HubTokenizer(tokenizer, space=" ")


def _ctc(source: Source, config: Any, network: Any) -> Loaded:
    tokenizer, frontend = _tokenizer(source), _frontend(source)
    parts = [tokenizer, frontend.extractor]
    if getattr(config, "adapter_attn_dim", None) is not None and isinstance(next(iter(tokenizer.vocab.values())), dict):
        return Mms(network, frontend, parts, tokenizer, source), MmsTokenizer(tokenizer, mms_codes(tokenizer))
    return Ctc(network, frontend, parts), HubTokenizer(tokenizer, group_tokens=False)


def _transducer(source: Source, config: Any, network: Any) -> Loaded:
    tokenizer, frontend = _tokenizer(source), _frontend(source)
    codec = HubTokenizer(tokenizer, group_tokens=False)
    return HubTransducer(network, frontend, [tokenizer, frontend.extractor]), codec


def _frontend(source: Source) -> ExtractorFrontend:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(source.name, **source.options)
    key = extractor.model_input_names[0]
    if key == "input_values":
        return ExtractorFrontend(extractor, key, frame_rate=float(extractor.sampling_rate))
    shift = getattr(extractor, "hop_length", extractor.sampling_rate // 100) * getattr(extractor, "stride", 1)
    return ExtractorFrontend(extractor, key, frame_rate=extractor.sampling_rate / shift)


LOADERS: dict[str, Callable[[Source, Any, Any], Loaded]] = {
    "WhisperForConditionalGeneration": _whisper,
    **dict.fromkeys(
        (
            "Data2VecAudioForCTC",
            "HubertForCTC",
            "ParakeetForCTC",
            "SEWDForCTC",
            "SEWForCTC",
            "UniSpeechForCTC",
            "UniSpeechSatForCTC",
            "Wav2Vec2BertForCTC",
            "Wav2Vec2ConformerForCTC",
            "Wav2Vec2ForCTC",
            "WavLMForCTC",
        ),
        _ctc,
    ),
    **dict.fromkeys(("NemotronAsrStreamingForRNNT", "ParakeetForRNNT", "ParakeetForTDT"), _transducer),
}
"""By architecture, as config.json names it."""
