"""`add-language`: the old pathways write the same, the new one learns, and a stopped run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from asr_pathways.bundle.load import load_model
from asr_pathways.cli.inspection import inspection_tables
from asr_pathways.cli.main import app
from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.tokenizer import Tokenizer, TokenizerFamily
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.decode import decode_split
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import METHODS, Pathways, matching
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.training.add_language import add_language
from asr_pathways.training.config import PruneRecipe
from tests.conftest import WORDS, make_model
from tests.models.hub.tiny import hubert, mms, whisper
from tests.training.helpers import same, stopped_before


def recipe(steps: int = 6, **options: object) -> PruneRecipe:
    return PruneRecipe.model_validate(
        {
            "optimizer": {"steps": steps, "peak_lr": 5e-3, "weight_decay": 0.1},
            "data": {"max_seconds": 1.5, "prefetch": 0},
            "evaluation": {"every": 3, "keep_best": 1, "utterances": 1},
            "checkpoint_every": 2,
            "threads": 1,
            **options,
        }
    )


def pruned(folder: Path, asr: AsrModel, sparsity: float = 0.7) -> Path:
    """A MODEL folder with one pathway, of English."""
    exclude = matching(asr.model.network, asr.model.unprunable)
    config = METHODS["dynamic"].config(sparsity, 6, ["en"], exclude=exclude, adapt_every=2)
    asr.pathways = Pathways.attach(asr.model.network, config, ["en"])
    asr.card = asr.card.model_copy(update={"languages": ("en",), "attribution": ("Somebody",)})
    save_model(folder, asr)
    return folder


@pytest.fixture
def english(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A native MODEL folder with one pathway; its word pieces spell French, too."""
    return pruned(tmp_path / "english", make_model(tokenizer, ("en",)))


@pytest.fixture
def english_letters(tmp_path: Path) -> Path:
    """The same with word pieces that cannot spell French."""
    tokenizer = Tokenizer.train([f"{a} {b}" for a in WORDS["en"] for b in WORDS["en"]], 18)
    return pruned(tmp_path / "english", make_model(tokenizer, ("en",), vocab_size=18))


def english_batch(asr: AsrModel, speech: Path) -> Batch:
    cuts = load_cuts(speech, "test", ["en"])
    return next(eval_batches(cuts, asr.tokenizer, frontend=asr.model.frontend))


@torch.no_grad()
def english_outputs(asr: AsrModel, speech: Path) -> tuple[Tensor, Tensor, object]:
    """Encodings, loss and texts of English speech by its pathway."""
    batch = english_batch(asr, speech)
    with asr.use("en"):
        encodings, _ = asr.model.encodings(batch.features, batch.feature_lengths, "en")
        text = asr.model.decode(batch.features, batch.feature_lengths, "en")
        return encodings, asr.model.loss(batch), text


@pytest.mark.parametrize("fixture", ["english", "english_letters"])
def test_old_pathways_write_the_same_bit_for_bit(
    fixture: str, request: pytest.FixtureRequest, speech: Path, tmp_path: Path
) -> None:
    model = request.getfixturevalue(fixture)
    alone = load_model(model)
    before = english_outputs(alone, speech)
    add_language(model, speech, tmp_path / "both", language="fr", recipe=recipe())
    both = load_model(tmp_path / "both")
    assert both.languages == ("en", "fr")
    after = english_outputs(both, speech)
    assert alone.pathways is not None and both.pathways is not None
    weights, same = alone.pathways.extract("en"), both.pathways.extract("en")
    assert weights.keys() == same.keys() and all(torch.equal(weights[name], same[name]) for name in weights)
    # Equal weights compute equal outputs but for the last bit, which depends on where tensors begin in memory.
    torch.testing.assert_close(after[:2], before[:2], rtol=1e-5, atol=1e-5)
    assert after[2] == before[2]
    assert both.card.attribution == ("Somebody", "Sines by nobody")
    assert both.pathways is not None and both.pathways.summary().sparsity["fr"] == pytest.approx(0.7, abs=0.01)
    sound = next((speech / "audio" / "fr").glob("*.flac"))
    assert Recognizer(both, "fr").transcribe(sound).language == "fr"
    assert {utterance.language for utterance in decode_split(both, speech, "test")} == {"en", "fr"}
    assert any("own.safetensors" in cell for t in inspection_tables(both, tmp_path / "both") for cell in cells(t))


def cells(table: object) -> list[str]:
    return [str(cell) for column in table.columns for cell in column.cells]  # type: ignore[attr-defined]


def test_new_letters_get_pieces_of_their_own(english_letters: Path, speech: Path, tmp_path: Path) -> None:
    add_language(english_letters, speech, tmp_path / "both", language="fr", recipe=recipe(2))
    both = load_model(tmp_path / "both")
    assert isinstance(both.tokenizer, TokenizerFamily)
    ids = both.tokenizer.encode("quatre deux", "fr")
    assert min(ids) > 18 and both.tokenizer.decode(ids, "fr") == "quatre deux"
    assert both.tokenizer.encode("four two", "en") == load_model(english_letters).tokenizer.encode("four two", "en")
    state = both.pathways.extract("fr") if both.pathways else {}
    assert len(state["joiner.output.weight"]) == 19 + both.tokenizer.added["fr"].new.vocab_size


def test_the_new_language_is_learnt(english_letters: Path, speech: Path, tmp_path: Path) -> None:
    last = {"every": 60, "choose": "last", "utterances": 1}
    add_language(english_letters, speech, tmp_path / "start", language="fr", recipe=recipe(0))
    add_language(english_letters, speech, tmp_path / "end", language="fr", recipe=recipe(60, evaluation=last))
    losses = []
    for name in ("start", "end"):
        asr = load_model(tmp_path / name)
        cuts = load_cuts(speech, "train", ["fr"])
        batch = next(eval_batches(cuts, asr.tokenizer, frontend=asr.model.frontend))
        with asr.use("fr"), torch.no_grad():
            losses.append(float(asr.model.loss(batch)))
    assert losses[1] < 0.7 * losses[0]


def test_a_stopped_run_goes_on_the_same(english_letters: Path, speech: Path, tmp_path: Path) -> None:
    add_language(english_letters, speech, tmp_path / "whole", language="fr", recipe=recipe())
    with stopped_before(3):
        add_language(english_letters, speech, tmp_path / "parts", language="fr", recipe=recipe())
    again = {"language": "fr", "recipe": recipe(), "resume": True}
    with pytest.raises(PathwaysError, match=r"adds fr at sparsity 0\.7, not 0\.9: cannot resume it"):
        add_language(english_letters, speech, tmp_path / "parts", sparsity=0.9, **again)  # type: ignore[arg-type]
    add_language(english_letters, speech, tmp_path / "parts", sparsity=0.7, **again)  # type: ignore[arg-type]
    whole, parts = load_model(tmp_path / "whole").pathways, load_model(tmp_path / "parts").pathways
    assert whole is not None and parts is not None
    assert same(whole.extract("fr"), parts.extract("fr")) and same(whole.mask("fr"), parts.mask("fr"))
    with pytest.raises(PathwaysError, match="adds another language"):
        add_language(english_letters, speech, tmp_path / "parts", language="en", recipe=recipe(), resume=True)
    with pytest.raises(PathwaysError, match="holds a run already"):
        add_language(english_letters, speech, tmp_path / "parts", language="fr", recipe=recipe())


@pytest.mark.parametrize("maker", [whisper, mms])
def test_models_from_elsewhere(maker: object, speech: Path, tmp_path: Path) -> None:
    asr = load_model(maker(tmp_path / "hub"))  # type: ignore[operator]
    asr.model.load_languages(["en", "fr"])
    model = pruned(tmp_path / "english", asr)
    alone = load_model(model)
    before = english_outputs(alone, speech)
    add_language(model, speech, tmp_path / "both", language="fr", recipe=recipe(3))
    both = load_model(tmp_path / "both")
    after = english_outputs(both, speech)
    assert alone.pathways is not None and both.pathways is not None
    weights, same = alone.pathways.extract("en"), both.pathways.extract("en")
    assert weights.keys() == same.keys() and all(torch.equal(weights[name], same[name]) for name in weights)
    # Equal weights compute equal outputs but for the last bit, which depends on where tensors begin in memory.
    torch.testing.assert_close(after[:2], before[:2], rtol=1e-5, atol=1e-5)
    assert after[2] == before[2]


def test_refusals(english: Path, dense_model: Path, speech: Path, tmp_path: Path) -> None:
    def add(model: Path, language: str = "fr", **options: object) -> None:
        add_language(model, speech, tmp_path / "out", language=language, **{"recipe": recipe(), **options})  # type: ignore[arg-type]

    with pytest.raises(PathwaysError, match="has no pathways: prune it first"):
        add(dense_model)
    with pytest.raises(PathwaysError, match="en"):
        add(english, "en")
    with pytest.raises(PathwaysError, match="no 'ru' in split 'train'"):
        add(english, "ru")
    with pytest.raises(PathwaysError, match=r"80\.0%.*and only 70\.0%"):
        add(english, sparsity=0.2)
    with pytest.raises(PathwaysError, match="recipe: pathways, refit_batches, refit_steps: for prune only"):
        add(english, recipe=recipe(pathways={"score": "magnitude"}, refit_batches=2, refit_steps=1))
    letters = hubert(tmp_path / "hub")
    folder = tmp_path / "letters"
    shutil.copytree(letters, folder)
    vocabulary = (folder / "vocab.json").read_text().replace('"q"', '"Q"').replace('"x"', '"X"')
    (folder / "vocab.json").write_text(vocabulary)
    with pytest.raises(PathwaysError, match=r"lacks 2 characters of its texts \(q x\)"):
        add(pruned(tmp_path / "english-letters", load_model(folder)))
    assert not (tmp_path / "out").exists()


def test_command(english: Path, speech: Path, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("data: {max_seconds: 2, prefetch: 0}\nevaluation: {every: 2, keep_best: 1}\nthreads: 1\n")
    words = ["add-language", str(english), "--language", "fr", "--data", str(speech), "--out", str(tmp_path / "both")]
    result = CliRunner().invoke(app, [*words, "--config", str(config), "--steps", "2"], catch_exceptions=False)
    assert result.exit_code == 0 and load_model(tmp_path / "both").languages == ("en", "fr")
