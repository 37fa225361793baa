"""MODELs that are folders of ours or of Hugging Face, or names on the hub; pruned, with ``pathways/``.

A folder of ours holds ``config.json``, ``model.safetensors`` and ``tokenizer.model``. A Hugging Face folder keeps its
own files and names, so that transformers still loads it; beside them is ``asr_pathways.json``, our card.
Bundles are MODELs too: `bundle.load` opens any.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from asr_pathways.config import parse_config
from asr_pathways.data.tokenizer import Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json, write_json
from asr_pathways.model_folder.card import IDENTIFIER, HubCard, ModelCard
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.models.weights import bounded, require_finite, stored_shapes
from asr_pathways.pruning import Pathways

CARD = "config.json"
HUB_CARD = "asr_pathways.json"
WEIGHTS = "model.safetensors"
_LISTED = 8
"""Models that are named, at most, where a folder that holds them is taken for one."""


def load_folder(model: Path | str, device: torch.device | str) -> AsrModel:
    """Reads a folder of ours, a Hugging Face folder, or a model of the hub by its name.

    Raises:
        PathwaysError: if a part is missing, truncated, foreign or does not fit the others.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.exists() or not _hub_name(str(model)):
            raise PathwaysError(f"{model}: no such model folder{_elsewhere(folder)}")
        from asr_pathways.models.hub import own_model_folder

        name, download = own_model_folder(str(model), HUB_CARD)
        if download is not None:
            return load_folder(download, device)
        asr = _load_hub(name)
        asr.card = asr.card.model_copy(update={"base": name.partition("@")[0]})
    elif not (folder / CARD).is_file():
        raise PathwaysError(f"{folder}: not a model folder: it has no {CARD}{_elsewhere(folder)}")
    else:
        raw = read_json(folder / CARD)
        if isinstance(raw, dict) and not {"format", "model_type"} & raw.keys():
            raise PathwaysError(f"{folder / CARD}: neither of a model of this package nor of one of transformers")
        foreign = isinstance(raw, dict) and "model_type" in raw and "format" not in raw
        asr = _load_hub(str(model)) if foreign else _load_own(folder, raw)
    require_finite(asr.model, str(model))
    asr.model.eval().to(device)
    asr.model.load_languages(asr.card.languages)
    if (folder / "pathways").is_dir():
        asr.pathways = Pathways.load(asr.model.network, folder / "pathways")
    return asr


def _elsewhere(folder: Path) -> str:
    """What may have been meant by something that is not a model folder."""
    if folder.is_file():
        return ": a file is a MODEL if it is a bundle, NAME.asrp"
    if not folder.exists():
        if len(folder.parts) == 1:
            return ", and a name on the hub is owner/model, such as openai/whisper-base"
        on_hub = len(folder.parts) == 2 and folder.parent.is_dir() and not folder.is_absolute()
        return f"; if a name on the hub is meant, write {folder}@main" if on_hub else ""
    if (folder / "checkpoints").is_dir():
        return ": the run there has not ended: go on with --resume"
    inside = sorted([*folder.glob("*.asrp"), *(card.parent for card in folder.glob(f"*/{CARD}"))])
    return f": models in it: {', '.join(map(str, inside))}" if 0 < len(inside) <= _LISTED else ""


def is_of_this_package(model: Path) -> bool:
    """Whether a MODEL is a folder of ours, and not one of Hugging Face, a name on the hub, or a bundle."""
    card = model / CARD
    return card.is_file() and isinstance(raw := read_json(card), dict) and "format" in raw


def save_model(folder: Path, asr: AsrModel) -> None:
    """Writes a MODEL folder; each file is written whole or not at all, the card last.

    Other files in ``folder`` are left alone; masks and the language identifier of a model that was there before are
    not.

    Raises:
        PathwaysError: if something cannot be written.
    """
    (folder / IDENTIFIER).unlink(missing_ok=True)  # it is of that model's encodings
    asr.model.save_weights(folder)
    if isinstance(asr.tokenizer, Tokenizer):
        asr.tokenizer.save(folder / "tokenizer.model")
    if asr.pathways is not None:
        asr.pathways.save(folder / "pathways")
    else:
        shutil.rmtree(folder / "pathways", ignore_errors=True)
    name = CARD if isinstance(asr.card, ModelCard) else HUB_CARD
    write_json(folder / name, asr.card.model_dump(mode="json"))


def fastest_device() -> torch.device:
    """The first GPU of CUDA, if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_own(folder: Path, raw: object) -> AsrModel:
    card = parse_config(ModelCard, raw, str(folder / CARD))
    tokenizer = TokenizerFamily.load_added(folder / "tokenizer.model", card.added)
    if tokenizer.vocab_size != card.model.vocab_size:
        raise PathwaysError(
            f"{folder}: tokenizer has {tokenizer.vocab_size} pieces and the model {card.model.vocab_size}: "
            "they do not belong together"
        )
    with torch.device("meta"), bounded(stored_shapes(folder / WEIGHTS).values(), str(folder / CARD)):
        Transducer(card.model)  # a config of far more than there is would take memory, or hours
    model = Transducer(card.model)
    model.load_weights(folder)
    return AsrModel(model, tokenizer, card)


def _load_hub(name: str) -> AsrModel:
    from asr_pathways.models.hub import load_hub_model

    model, tokenizer = load_hub_model(name)
    path = Path(name) / HUB_CARD
    card = parse_config(HubCard, read_json(path), str(path)) if path.is_file() else HubCard()
    return AsrModel(model, tokenizer, card)


def _hub_name(name: str) -> bool:
    """Whether it reads like ``owner/model``, where no folder is called as the owner is, or ``owner/model@revision``."""
    name, mark, revision = name.partition("@")
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~", "/")):
        return False
    return bool(revision) if mark else not Path(parts[0]).is_dir()
