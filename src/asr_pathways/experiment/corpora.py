"""Makes the corpora that an experiment names, once each, each in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr_pathways.data.corpus import is_data_folder, merge, resplit
from asr_pathways.data.splits import fold_split
from asr_pathways.experiment.plan import Cell, Plan, corpus_spec, digest
from asr_pathways.experiment.recipe import ExperimentRecipe, FolderSource, MergedSource, PromptsSource, SpeechSource


def data_folder(root: Path, recipe: ExperimentRecipe, data: dict[str, Any]) -> Path:
    """The folder of the corpus, or of the fold of one, that a cell's spec names."""
    source = recipe.data[data["name"]]
    if isinstance(source, FolderSource) and "fold" not in data:
        return source.path
    folder = f"{data['name']}-{digest(data['corpus'])}"
    return root / "data" / (f"{folder}-fold-{data['fold']}-of-{data['folds']}" if "fold" in data else folder)


def folder_at_hand(root: Path, recipe: ExperimentRecipe, data: dict[str, Any]) -> Path | None:
    """The folder that a cell's spec names, or of a fold not made yet that of its corpus; None: neither is there."""
    whole = {key: data[key] for key in ("corpus", "name")}
    folders = (data_folder(root, recipe, data), data_folder(root, recipe, whole))
    return next((folder for folder in folders if is_data_folder(folder)), None)


def make_corpora(root: Path, plan: Plan, cells: list[Cell], source: Path | None = None) -> None:
    """Makes what ``cells`` train and are tested on, where it is not there yet.

    Args:
        root: the experiment's folder.
        plan, cells: those of its cells that are to run.
        source: Debian packages (unpacked, or ``.deb`` files) for the prompts; None fetches them.

    Raises:
        PathwaysError: if a corpus cannot be made.
    """
    recipe = plan.recipe
    for cell in cells:
        data = cell.spec["data"]
        whole = data_folder(root, recipe, {key: data[key] for key in ("corpus", "name")})
        _make(root, recipe, data["name"], whole, source)
        folder = data_folder(root, recipe, data)
        if "fold" in data and not is_data_folder(folder):
            folds, fold = data["folds"], data["fold"]
            resplit(whole, folder, lambda language, text, n=folds, k=fold: fold_split(f"{language} {text}", n, k))  # type: ignore[misc]


def _made(root: Path, recipe: ExperimentRecipe, name: str, packages: Path | None) -> Path:
    """The folder of a corpus that another one needs."""
    folder = data_folder(root, recipe, {"corpus": corpus_spec(recipe, name), "name": name})
    _make(root, recipe, name, folder, packages)
    return folder


def _make(root: Path, recipe: ExperimentRecipe, name: str, folder: Path, packages: Path | None) -> None:
    corpus = recipe.data[name]
    if isinstance(corpus, FolderSource) or is_data_folder(folder):
        return
    if isinstance(corpus, PromptsSource):
        from asr_pathways.data.corpora.prompts import prepare_prompts

        prepare_prompts(folder, packages, corpus.languages)
        return
    if isinstance(corpus, MergedSource):
        merge([_made(root, recipe, part, packages) for part in corpus.of], folder)
        return
    from asr_pathways.data.corpora.synth import prepare_synth
    from asr_pathways.data.corpora.texts import read_texts, texts_in

    left_out = set() if corpus.exclude is None else texts_in(_made(root, recipe, corpus.exclude, packages))
    texts = folder.with_name(folder.name + "-texts")
    _write_texts(corpus, texts)
    lines = read_texts(texts, corpus.languages).items()
    kept = {language: [line for line in every if line not in left_out] for language, every in lines}
    prepare_synth(folder, kept, corpus.seed, corpus.hours, corpus.held_out)


def _write_texts(corpus: SpeechSource, out: Path) -> None:
    if corpus.texts == "numbers":
        from asr_pathways.data.corpora.numbers import write_numbers

        write_numbers(out, corpus.languages, corpus.lines)
        return
    from asr_pathways.data.corpora.texts import write_texts

    write_texts(out, corpus.languages)
