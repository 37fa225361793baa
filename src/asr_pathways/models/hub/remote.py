"""Models on the hub: which revision a name means, and folders of ours that lie there."""

from __future__ import annotations

import sys
from pathlib import Path

from asr_pathways.files import read_json
from asr_pathways.models.hub.base import Source

FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What a MODEL folder consists of, in subfolders too; nothing that would have to be unpickled."""


def pinned(source: Source) -> Source:
    """The same with the commit that it means now, reported on stderr if it was named otherwise; a folder as it is."""
    if Path(source.name).is_dir():
        return source
    from transformers.utils import cached_file

    config = cached_file(source.name, "config.json", **source.options)  # in the folder of its commit
    if config is None or Path(config).parents[1].name != "snapshots":
        return source
    pinned_source = Source(source.name, Path(config).parent.name)
    if pinned_source != source:
        print(f"{source}: revision {pinned_source.revision}; MODEL {pinned_source} is always this one", file=sys.stderr)
    return pinned_source


def own_folder(source: Source, card: str) -> Path | None:
    """Fetches a pinned model whole, if it is a MODEL folder of ours; None if it is anybody else's.

    Args:
        source: as from :func:`pinned`.
        card: the file by which ours are known, if ``config.json`` is not in our format.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(source.name, card, revision=source.revision)
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError) and not _known_to_lack(source, card):
            print(
                f"{source}: the hub cannot be reached, and the cache does not tell whether this model has pathways: "
                "it is taken as it was before pruning",
                file=sys.stderr,
            )
        config = read_json(Path(hf_hub_download(source.name, "config.json", revision=source.revision)))
        if not (isinstance(config, dict) and "format" in config):
            return None
    return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=list(FILES)))


def _known_to_lack(source: Source, name: str) -> bool:
    """Whether the hub once said that there is no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    return try_to_load_from_cache(source.name, name, revision=source.revision) is _CACHED_NO_EXIST
