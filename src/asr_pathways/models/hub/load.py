"""From the name or folder of a Hugging Face model to an adapter of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from asr_pathways.errors import PathwaysError, reason_of
from asr_pathways.files import read_json
from asr_pathways.models.hub.base import GENERATION, ExtractorFrontend, HubModel, Source
from asr_pathways.models.hub.cache_aware import ProcessorFile
from asr_pathways.models.hub.codec import HubTokenizer, MmsTokenizer
from asr_pathways.models.hub.ctc import Ctc, Mms, mms_codes
from asr_pathways.models.hub.files import check_configs, file_of, weight_shapes
from asr_pathways.models.hub.remote import own_folder, pinned
from asr_pathways.models.hub.transducer import HubTransducer
from asr_pathways.models.hub.whisper import Whisper
from asr_pathways.models.weights import bounded

Loaded = tuple[HubModel, HubTokenizer]
MakeNetwork = Callable[[Any, Any], Any]


def load_hub_model(name: str, make: MakeNetwork | None = None) -> Loaded:
    """Reads a model's folder, or fetches it by its name on the hub; safetensors only, nothing is unpickled.

    All files are of one revision. Where none is named, it is the newest, and a line on stderr names it.

    Args:
        name: of the folder, or on the hub (``owner/model``, or ``owner/model@revision`` for one that stays the same).
        make: makes the network from its class and config, for a folder without weights.

    Raises:
        PathwaysError: if transformers is not installed, the model cannot be read or fetched, or its kind is not
            supported; the supported ones are named.
    """
    transformers = _transformers(name)
    with _one_line_errors(name):
        source = pinned(Source.of(name))
        check_configs(source)
        config = transformers.AutoConfig.from_pretrained(source.name, **_options(source))
        architecture = str((config.architectures or ["a model of no known architecture"])[0])
    loader = LOADERS.get(architecture)
    if loader is None:
        raise PathwaysError(f"{name}: {architecture} is not supported; these are: {', '.join(sorted(LOADERS))}")
    with _one_line_errors(name):
        kind = getattr(transformers, architecture)
        network = _network(source, kind) if make is None else make(kind, config)
        stated = _stated_generation(source)
        network.generation_config = _plain_generation(stated, config)
        model, codec = loader(source, config, network)
        model.stated_generation = stated
        model.free_text = model.free_text or codec.free_text()
        if model.blank is not None and not 0 <= model.blank < config.vocab_size:
            raise PathwaysError(f"its blank is token {model.blank}, and it has tokens 0 to {config.vocab_size - 1}")
        return model, codec


def own_model_folder(name: str, card: str) -> tuple[str, Path | None]:
    """The name of a model on the hub with the commit that it means now, and its folder if that is one of ours.

    Args:
        name: ``owner/model``, or ``owner/model@revision``.
        card: the file that marks folders of ours.

    Raises:
        PathwaysError: if transformers is not installed, or the model cannot be read or fetched.
    """
    _transformers(name)
    with _one_line_errors(name):
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
def _one_line_errors(name: str) -> Iterator[None]:
    """Whatever transformers and its tokenizers raise for a broken or missing part becomes one line with the name.

    Inside the block so do the two that the hub's library logs for each of its retries.
    """
    requests, retries = logging.getLogger("huggingface_hub.utils._http"), _Retries(name)
    requests.addFilter(retries)
    try:
        yield
    except PathwaysError as error:
        raise error if name in str(error) else PathwaysError(f"{name}: {error}") from None
    except Exception as error:
        if _unreachable(error):
            raise PathwaysError(
                f"{name}: the hub cannot be reached, and its cache lacks this model: copy the model's folder from "
                "where it can be, and name that"
            ) from error
        raise PathwaysError(f"{name}: cannot load this Hugging Face model: {reason_of(error):.300}") from error
    finally:
        requests.removeFilter(retries)


class _Retries(logging.Filter):
    """Leaves out what is logged of requests that are tried again, and prints one line instead."""

    printed = False

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "thrown while requesting" not in message and not message.startswith("Retrying in"):
            return True
        if not self.printed:
            print(f"{self.name}: the hub does not answer; trying again for half a minute", file=sys.stderr)
        self.printed = True
        return False


def _unreachable(error: BaseException | None) -> bool:
    """Whether it comes from a file that is not in the cache, and a hub that does not answer."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while error is not None and not isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__
    return error is not None


def _options(source: Source) -> dict[str, Any]:
    """Arguments of transformers' loaders beside the name. Code that lies in a model's folder is never run."""
    return {"trust_remote_code": False, **source.options}


def _network(source: Source, kind: Any) -> Any:
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True, **_options(source)}
    options["generation_config"] = _plain_generation(None, None)  # nor is the checkpoint's validated
    with bounded(weight_shapes(source).values(), str(source)):
        network, report = kind.from_pretrained(source.name, **options)
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random ones
        raise PathwaysError(f"{source}: its files lack {len(missing)} tensors of the model, such as {missing[0]}")
    return network


def _stated_generation(source: Source) -> dict[str, Any] | None:
    """The content of the checkpoint's ``generation_config.json``; None if it has none."""
    path = file_of(source, GENERATION)
    if path is None:
        return None
    stated = read_json(path)
    if not isinstance(stated, dict):
        raise PathwaysError(f"{path}: not a JSON object")
    return stated


def _plain_generation(stated: dict[str, Any] | None, config: Any) -> Any:
    """Which tokens do what, by a checkpoint's options of decoding or else its ``config``.

    All others (beams, penalties, stop strings, results as dicts) are for programs that generate by them: greedy search
    here is the same whatever they are.
    """
    from transformers import GenerationConfig

    if stated is None:
        stated = {} if config is None else GenerationConfig.from_model_config(config).to_dict()
    return GenerationConfig(**{name: stated[name] for name in TOKENS_OF_GENERATION if name in stated})


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.name, **_options(source))


def _whisper(source: Source, config: Any, network: Any) -> Loaded:
    from transformers import WhisperFeatureExtractor

    if (Path(source.name) / "preprocessor_config.json").is_file() or not Path(source.name).is_dir():
        extractor = WhisperFeatureExtractor.from_pretrained(source.name, **_options(source))
    else:  # a converted checkpoint often lacks it; only the number of bins differs between Whisper models
        extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    tokenizer = _tokenizer(source)
    return Whisper(network, tokenizer, extractor), HubTokenizer(tokenizer, space=" ")


def _ctc(source: Source, config: Any, network: Any) -> Loaded:
    tokenizer, frontend = _tokenizer(source), _frontend(source)
    parts = [tokenizer, frontend.extractor]
    if config.model_type == "wavlm":
        from asr_pathways.models.hub.wavlm import call_projections

        call_projections(network)
    if getattr(config, "adapter_attn_dim", None) is not None and isinstance(next(iter(tokenizer.vocab.values())), dict):
        return Mms(network, frontend, parts, tokenizer, source), MmsTokenizer(tokenizer, mms_codes(tokenizer))
    return Ctc(network, frontend, parts), HubTokenizer(tokenizer, group_tokens=False)


def _transducer(source: Source, config: Any, network: Any) -> Loaded:
    tokenizer, frontend = _tokenizer(source), _frontend(source)
    codec = HubTokenizer(tokenizer, group_tokens=False)
    return HubTransducer(network, frontend, [tokenizer, frontend.extractor]), codec


def _cache_aware(source: Source, config: Any, network: Any) -> Loaded:
    tokenizer, frontend, processor = _tokenizer(source), _frontend(source), ProcessorFile.read(source)
    codec = HubTokenizer(tokenizer, group_tokens=False)
    parts = [tokenizer, frontend.extractor, processor]
    return HubTransducer(network, frontend, parts, processor.cache_aware(config)), codec


def _frontend(source: Source) -> ExtractorFrontend:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(source.name, **_options(source))
    key = extractor.model_input_names[0]
    if key == "input_values":
        return ExtractorFrontend(extractor, key, frame_rate=float(extractor.sampling_rate))
    shift = getattr(extractor, "hop_length", extractor.sampling_rate // 100) * getattr(extractor, "stride", 1)
    return ExtractorFrontend(extractor, key, frame_rate=extractor.sampling_rate / shift)


TOKENS_OF_GENERATION = (
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "is_multilingual",
    "pad_token_id",
    "suppress_tokens",
)

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
    **dict.fromkeys(("ParakeetForRNNT", "ParakeetForTDT"), _transducer),
    **dict.fromkeys(("Nemotron3_5AsrForRNNT", "NemotronAsrStreamingForRNNT"), _cache_aware),
}
"""By architecture, as config.json names it."""
