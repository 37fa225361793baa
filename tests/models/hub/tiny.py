"""Hugging Face folders of tiny random models, as a hub would hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ParakeetFeatureExtractor, ParakeetTokenizer, Wav2Vec2FeatureExtractor

from tests.conftest import LANGUAGES, WORDS

LETTERS = sorted({letter for language in LANGUAGES for word in WORDS[language] for letter in word})
WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER = {
    **WIDTH,
    "conv_kernel_size": 3,
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "max_position_embeddings": 200,
    "dropout": 0.0,
    "layerdrop": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
}
WAVE = {
    **WIDTH,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 7,
    "layerdrop": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
}
LANGUAGE_TOKENS = ("en", "fr", "de")
WORD_SETS = {"eng": "en", "fra": "fr"}


def _save(folder: Path, network: Any, *parts: Any) -> Path:
    network.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


def whisper(folder: Path, merges: Sequence[tuple[str, str]] = ()) -> Path:
    """A multilingual Whisper with byte-level pieces, a window of 1.2 s and no preprocessor_config.json."""
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGE_TOKENS)]
    names += ["<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(names)
    ids = {name: int(tokenizer.token_to_id(name)) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(5)
    config = transformers.WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=60,
        max_target_positions=60,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
        apply_spec_augment=True,
    )
    return _save(folder, transformers.WhisperForConditionalGeneration(config))


def _letters_tokenizer(folder: Path, vocabulary: dict[str, Any], **options: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.json"
    path.write_text(json.dumps(vocabulary))
    return transformers.Wav2Vec2CTCTokenizer(str(path), pad_token="<pad>", word_delimiter_token="|", **options)


def _letters(letters: list[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}


def wav2vec2(folder: Path) -> Path:
    """Wav2Vec2 with group norm, no attention mask and an upper-case vocabulary, as wav2vec2-base-960h has."""
    vocabulary = _letters([letter.upper() for letter in LETTERS])
    torch.manual_seed(5)
    config = transformers.Wav2Vec2Config(**WAVE, vocab_size=len(vocabulary), feat_extract_norm="group", pad_token_id=0)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True)
    return _save(folder, transformers.Wav2Vec2ForCTC(config), _letters_tokenizer(folder, vocabulary), extractor)


def hubert(folder: Path) -> Path:
    """HuBERT with layer norm and an attention mask."""
    vocabulary = _letters(LETTERS)
    torch.manual_seed(5)
    config = transformers.HubertConfig(
        **WAVE, vocab_size=len(vocabulary), feat_extract_norm="layer", do_stable_layer_norm=True, pad_token_id=0
    )
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return _save(folder, transformers.HubertForCTC(config), _letters_tokenizer(folder, vocabulary), extractor)


def wave(folder: Path, kind: str, mask: bool | None = None, **options: Any) -> Path:
    """A model of waveforms of any kind; with an attention mask by default if its first layer has no group norm."""
    vocabulary = _letters(LETTERS)
    torch.manual_seed(5)
    sizes = {**WAVE, "feat_extract_norm": "layer", "pad_token_id": 0, "vocab_size": len(vocabulary), **options}
    network = getattr(transformers, f"{kind}ForCTC")(getattr(transformers, f"{kind}Config")(**sizes))
    masked = sizes["feat_extract_norm"] == "layer" if mask is None else mask
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    return _save(folder, network, _letters_tokenizer(folder, vocabulary), extractor)


def wav2vec2_bert(folder: Path, **options: Any) -> Path:
    """Wav2Vec2-BERT on stacked filter banks."""
    vocabulary = _letters(LETTERS)
    torch.manual_seed(5)
    config = transformers.Wav2Vec2BertConfig(
        **WIDTH,
        vocab_size=len(vocabulary),
        feature_projection_input_dim=160,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        conformer_conv_dropout=0.0,
        final_dropout=0.0,
        conv_depthwise_kernel_size=3,
        left_max_position_embeddings=4,
        right_max_position_embeddings=4,
        pad_token_id=0,
        **options,
    )
    extractor = transformers.SeamlessM4TFeatureExtractor()
    return _save(folder, transformers.Wav2Vec2BertForCTC(config), _letters_tokenizer(folder, vocabulary), extractor)


def mms(folder: Path) -> Path:
    """MMS: a vocabulary and an adapter for each of two languages, of different sizes."""
    vocabularies = {
        code: _letters(sorted({letter for word in WORDS[language] for letter in word}))
        for code, language in WORD_SETS.items()
    }
    tokenizer = _letters_tokenizer(folder, vocabularies, target_lang="eng")
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    for seed, (code, vocabulary) in enumerate(vocabularies.items()):
        torch.manual_seed(5)
        config = transformers.Wav2Vec2Config(
            **WAVE,
            vocab_size=len(vocabulary),
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            adapter_attn_dim=4,
            pad_token_id=0,
        )
        network = transformers.Wav2Vec2ForCTC(config)
        torch.manual_seed(seed)
        adapter = {name: torch.randn_like(value) * 0.1 for name, value in network._get_adapters().items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(adapter, folder / f"adapter.{code}.safetensors", metadata={"format": "pt"})
        if code == "eng":
            _save(folder, network, tokenizer, extractor)
    return folder


def _pieces(folder: Path) -> Any:
    pieces = ["<unk>", "▁", "<pad>", *LETTERS]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    folder.mkdir(parents=True, exist_ok=True)
    return ParakeetTokenizer(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def _conformer(folder: Path, kind: str, subsampling: int = 4, **options: Any) -> Path:
    tokenizer = _pieces(folder)
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")
    network = {"ParakeetCTC": "ParakeetForCTC", "ParakeetRNNT": "ParakeetForRNNT", "ParakeetTDT": "ParakeetForTDT"}
    size = len(tokenizer)
    encoder = {**ENCODER, "subsampling_factor": subsampling, "num_mel_bins": 80}
    made = config(vocab_size=size + 1, pad_token_id=2, encoder_config=encoder, **options)
    return _save(folder, getattr(transformers, network[kind])(made), tokenizer, ParakeetFeatureExtractor())


def parakeet_ctc(folder: Path) -> Path:
    """ParakeetForCTC, with a frame for each letter."""
    return _conformer(folder, "ParakeetCTC", subsampling=2)


def parakeet_rnnt(folder: Path) -> Path:
    """ParakeetForRNNT."""
    return _conformer(
        folder, "ParakeetRNNT", decoder_hidden_size=16, num_decoder_layers=1, blank_token_id=3 + len(LETTERS)
    )


def parakeet_tdt(folder: Path) -> Path:
    """ParakeetForTDT with three durations."""
    return _conformer(
        folder,
        "ParakeetTDT",
        decoder_hidden_size=16,
        num_decoder_layers=1,
        blank_token_id=3 + len(LETTERS),
        durations=[0, 1, 2],
    )


PROMPTS = {"en-US": 0, "en": 0, "fr": 1, "fr-CA": 2, "de-DE": 3, "auto": 4}


def nemotron(folder: Path) -> Path:
    """NemotronAsrStreamingForRNNT, without a processor_config.json."""
    return _cache_aware(folder, "NemotronAsrStreaming")


def nemotron_prompts(folder: Path) -> Path:
    """Nemotron3_5AsrForRNNT, which is told the language."""
    network = _cache_aware(folder, "Nemotron3_5Asr", num_prompts=5, prompt_intermediate_size=16, default_prompt_id=4)
    processor = {
        "processor_class": "Nemotron3_5AsrProcessor",
        "supported_num_lookahead_tokens": [3, 1, 0],
        "default_num_lookahead_tokens": 1,
        "prompt_dictionary": PROMPTS,
        "num_prompts": 5,
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return network


def _cache_aware(folder: Path, kind: str, **options: Any) -> Path:
    tokenizer = _pieces(folder)
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer) + 1,
        decoder_hidden_size=16,
        num_decoder_layers=1,
        blank_token_id=3 + len(LETTERS),
        pad_token_id=2,
        encoder_config={
            **ENCODER,
            "model_type": "nemotron_asr_streaming_encoder",
            "num_mel_bins": 80,
            "sliding_window": 21,
            "default_num_lookahead_tokens": 1,
        },
        **options,
    )
    extractor = transformers.NemotronAsrStreamingFeatureExtractor()
    network = getattr(transformers, f"{kind}ForRNNT")(config)
    with torch.no_grad():  # as they begin, what is behind the prompt hardly depends on what is said
        for name, weight in network.named_parameters():
            if weight.dim() > 1 and name.startswith("prompt_projector."):
                weight.mul_(10)
    return _save(folder, network, tokenizer, extractor)


MAKERS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        whisper,
        wav2vec2,
        hubert,
        wav2vec2_bert,
        mms,
        parakeet_ctc,
        parakeet_rnnt,
        parakeet_tdt,
        nemotron,
        nemotron_prompts,
    )
}
