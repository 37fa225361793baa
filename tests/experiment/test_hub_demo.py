from __future__ import annotations

import re
from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.experiment import hub_demo
from asr_pathways.experiment.hub_demo import run_hub_demo
from asr_pathways.runtime.results import Result
from asr_pathways.shrink.command import Outcome
from asr_pathways.shrink.compare import System


class Recogniser:
    def __init__(self, model: Path) -> None:
        assert model == Path("small.asrp")

    def transcribe(self, samples: object, *, language: str) -> Result:
        return Result(f"some <words> of {language}", language, (), 1.0)


def system(name: str, hypothesis: str, seconds: float) -> System:
    texts = {"en": ("one two three four", hypothesis), "fr": ("un deux trois quatre", "un deux trois quatre")}
    utterances = [Utterance(language, language, *pair) for language, pair in texts.items()]
    return System(name=name, scores=score(utterances).to_dict(), nbytes=3_000_000, seconds=seconds, audio=60.0)


@pytest.mark.parametrize("finetuned", [True, False])
def test_a_page_answers_what_is_asked(
    tmp_path: Path, speech: Path, dense_model: Path, finetuned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    tuned = [system("finetuned, dense", "one two three four", 20.0)] * finetuned
    systems = (system("dense", "two three four", 30.0), *tuned, system("pruned, 50%", "three four", 6.0))
    outcome = Outcome(Path("small.asrp"), "test", systems, ("few words",), ("serve small.asrp",))
    monkeypatch.setattr(hub_demo, "shrink", lambda *words, **options: (called.append((words, options)), outcome)[1])
    monkeypatch.setattr(hub_demo, "Recognizer", Recogniser)
    (tmp_path / "data").symlink_to(speech)
    assert run_hub_demo(dense_model, tmp_path, languages=("en", "fr")) is outcome
    data, out = tmp_path / "data", tmp_path / "shrunk"
    assert called == [((dense_model, data, out, ("en", "fr")), {"budget": 1500.0, "resume": True})]
    page = (tmp_path / "report.html").read_text()
    tuned_wer = ", finetuned 0.0%" if finetuned else ""
    assert f"<title>2 pathways in 3.0 MB: WER 25.0% where {dense_model.name} has 12.5%{tuned_wer}</title>" in page
    for question in ("smaller?", "faster?", "as good?", "Why is the dense WER 12.5%?", "other voices?"):
        assert f"{question}</strong>" in page
    assert re.search(r"in one thread: dense: 2\.0; (finetuned, dense: 3\.0; )?pruned, 50%: 10\.0\.", page)
    assert ("without pruning it has 0.0%" in page) == finetuned == ("<td>finetuned, dense</td>" in page)
    assert "<td>pruned, 50%</td>" in page and "few words." in page and "asr-pathways serve small.asrp" in page
    assert "<td>French</td>" in page and "some &lt;words&gt; of fr" in page


def test_a_missing_model_is_reported_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_demo, "prepare_prompts", lambda *_: pytest.fail("fetched"))
    with pytest.raises(PathwaysError, match="no such model folder"):
        run_hub_demo(tmp_path / "none", tmp_path / "demo")
