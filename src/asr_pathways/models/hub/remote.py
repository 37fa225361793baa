"""Models on the hub: which revision a name means, and folders of ours that lie there."""

from __future__ import annotations

import sys
from pathlib import Path

from asr_pathways.files import read_json
from asr_pathways.models.hub.base import Source

FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What a MODEL folder consists of, in subfolders too; nothing that would have to be unpickled."""


def pinned(source: Source) -> Source:
    """The same with the commit that it means now, told on stderr if another word was used; a folder is left alone."""
    if Path(source.name).is_dir():
        return source
    from transformers.utils import cached_file

    config = cached_file(source.name, "config.json", **source.options)  # in the folder of its commit
    if config is None or Path(config).parents[1].name != "snapshots":
        return source
    found = Source(source.name, Path(config).parent.name)
    if found != source:
        print(f"{source}: revision {found.revision}; MODEL {found} is always this one", file=sys.stderr)
    return found


def own_folder(source: Source, card: str) -> Path | None:
    """Fetches a pinned model whole, if it is a MODEL folder of ours; None if it is anybody else's.

    Args:
        source: as from :func:`pinned`.
        card: the file by which ours are known, if ``config.json`` is not in our format.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(source.name, card, revision=source.revision)
    except EntryNotFoundError:
        config = read_json(Path(hf_hub_download(source.name, "config.json", revision=source.revision)))
        if not (isinstance(config, dict) and "format" in config):
            return None
    return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=list(FILES)))
