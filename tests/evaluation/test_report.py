from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.report import (
    Curve,
    LayerDensity,
    Overlap,
    Pair,
    Report,
    Sample,
    Sizes,
    System,
    render,
    write_report,
)
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.formats import percent
from tests.evaluation.example import example_report

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers them with their attributes and the text of each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def report() -> Report:
    return example_report(size=10, replications=50)


@pytest.fixture(scope="module")
def document(report: Report) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(document: str) -> Page:
    return Page(document)


def minimal(**changes: object) -> Report:
    scores = score([Utterance("1", "en", "a b c d", "a b c x")], replications=5)
    return replace(Report("Title", [System("one", scores)], "one"), **changes)  # type: ignore[arg-type]


def test_needs_nothing_from_anywhere_else(document: str, page: Page) -> None:
    assert re.findall(r"https?:|//\w|@import|javascript:", document) == []
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "a"} == set()
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert (attributes.get("xlink:href") or "#").startswith("#")
    assert set(re.findall(r"url\((.)", document)) == {"#"}


def test_ids_are_unique_and_references_lead_somewhere(document: str, page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", document)) <= set(ids)
    assert {(a["xlink:href"] or "")[1:] for _, a in page.elements if "xlink:href" in a} <= set(ids)


def test_is_accessible(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("svg")) == 2
    assert all(attributes["role"] == "img" for attributes in page.all("svg"))
    assert len([text for text in page.text("title") if text.startswith(("Word error", "Mean word"))]) == 2
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert len(page.all("h1")) == 1
    assert {"en", "es", "fr", "it", "ru"} <= {attributes.get("lang") for attributes in page.all("span")}


def test_charts_take_the_colours_and_fonts_of_the_page(document: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", document, flags=re.DOTALL)
    for drawing in drawings:
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) == set()
        assert "DejaVu" not in drawing
        assert "<style" not in drawing
    defined = set(re.findall(r"(--\w+):", document))
    assert set(re.findall(r"var\((--\w+)\)", document)) <= defined


def test_shows_every_number_of_the_scores(report: Report, page: Page) -> None:
    cells = page.text("td")
    for system in report.systems:
        assert f"{percent(system.scores.mean_wer)}%" in page.text("dd")
        for entry in system.scores.languages:
            assert percent(entry.wer.rate) in cells
            assert percent(entry.cer.rate) in cells
            assert f"{entry.wer.substitutions:,}" in cells


def test_sections_in_order(page: Page) -> None:
    assert page.text("h2") == [
        "Word error rates on the test split",
        "Paired comparisons",
        "Word error rate while training",
        "Overlap of the pathways",
        "Density by layer",
        "Sizes",
        "One recording per language, by system",
        "How this was made",
        "Data",
    ]


def test_what_is_empty_is_left_out() -> None:
    page = Page(render(minimal()))
    assert page.text("h2") == ["Word error rates on the test split"]
    assert "The mean word error rate of one over one language is 25.0% (95% CI 25.0–25.0)." in page.text("p")


def test_summary_names_sparsity_and_the_other_systems(report: Report, page: Page) -> None:
    summary = page.text("p")[0]
    assert summary.startswith("The mean word error rate of dynamic pathways over 5 languages at 70% sparsity is ")
    for system in report.systems[:-1]:
        assert f"{system.name} {percent(system.scores.mean_wer)}%" in summary
    assert Page(render(minimal(summary="As given."))).text("p")[0] == "As given."


def test_sample_marks_each_kind_of_error() -> None:
    sample = Sample("en/1", "en", "one two three four", {"one": "one tow three four five"})
    page = Page(render(minimal(samples=[sample])))
    assert page.text("mark")[-1] == "tow"
    assert page.text("ins")[-1] == "five"
    assert {"title": "instead of: two"} in page.all("mark")
    assert "2 of 4" in page.text("td")
    sample = replace(sample, hypotheses={"one": "one two four"})
    assert Page(render(minimal(samples=[sample]))).text("del")[-1] == "three"


def test_curve_of_one_point_is_a_level() -> None:
    scores = minimal().systems[0].scores
    report = minimal(
        systems=[System("one", scores), System("two", scores)],
        curves=[Curve("one", [0], [0.3]), Curve("two", [0, 10], [0.9, 0.4])],
    )
    page = Page(render(report))
    assert "one 30.0" in page.text("text")
    assert any("two from 90.0% to 40.0% in 10 steps; one 30.0% throughout" in t for t in page.text("title"))


def test_levels_alone_can_be_drawn() -> None:
    assert "one 30.0" in Page(render(minimal(curves=[Curve("one", [0], [0.3])]))).text("text")


def test_hostile_text_stays_text() -> None:
    nasty = "<script>alert('&')</script> $x$"
    scores = score([Utterance(nasty, "en", nasty, nasty)], replications=5)
    report = Report(
        nasty,
        [System(nasty, scores, note=nasty)],
        nasty,
        curves=[Curve(nasty, [0], [0.5])],
        samples=[Sample(nasty, 'en"><b>', nasty, {nasty: "x <b> y"})],
        attribution=[nasty],
    )
    page = Page(render(report))
    assert page.all("script") == []
    assert page.all("b") == []
    assert f"{nasty} 50.0" in page.text("text")


def test_same_data_gives_the_same_bytes(report: Report, document: str) -> None:
    assert render(report) == document


def test_written_whole(tmp_path: Path, report: Report, document: str) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(path, report)
    assert path.read_text(encoding="utf-8") == document
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_unwritable_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PathwaysError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", minimal())


def test_names_must_fit_together(report: Report) -> None:
    pair = replace(report.pairs[0], a="other")
    assert isinstance(pair, Pair)
    for changes in (
        {"main": "other"},
        {"pairs": [pair]},
        {"curves": [Curve("other", [0], [0.1])]},
        {"samples": [Sample("1", "en", "a", {"other": "a"})]},
    ):
        with pytest.raises(PathwaysError, match="no system is called 'other'; there are: dense, one-shot"):
            replace(report, **changes)  # type: ignore[arg-type]
    with pytest.raises(PathwaysError, match="same name"):
        minimal(systems=[minimal().systems[0]] * 2)
    with pytest.raises(PathwaysError, match="same languages"):
        replace(report, systems=[*report.systems, replace(minimal().systems[0], name="small")])


@dataclass(frozen=True)
class Summary:
    weights: int
    sparsity: Mapping[str, float]
    tensors: Mapping[str, Mapping[str, float]]
    union_density: float
    mask_bytes: int


def test_made_from_what_pathways_tell() -> None:
    summary = Summary(
        weights=1000,
        sparsity={"en": 0.7, "fr": 0.701, "it": 0.699},
        tensors={language: {"a.weight": 0.75, "b.weight": 0.5} for language in ("en", "fr", "it")},
        union_density=0.421,
        mask_bytes=375,
    )
    overlap = Overlap.of("After", summary, {("en", "fr"): 0.5, ("en", "it"): 0.6, ("fr", "it"): 0.7})
    assert overlap.languages == ["en", "fr", "it"]
    assert overlap.iou == [[1.0, 0.5, 0.6], [0.5, 1.0, 0.7], [0.6, 0.7, 1.0]]
    assert overlap.union_density == 0.421
    layers = LayerDensity.of(summary, {"b.weight": 0.8, "a.weight": 0.4})
    assert layers == LayerDensity(["en", "fr", "it"], ["a.weight", "b.weight"], [[0.25] * 3, [0.5] * 3], [0.4, 0.8])
    assert LayerDensity.of(summary).union is None
    sizes = Sizes.of(summary, dense_bytes=8000, total_weights=2000)
    assert sizes == Sizes(8000, 375, 2000, 1000, {"en": 300, "fr": 299, "it": 301}, 421)
    document = render(minimal(overlaps=[overlap], layers=layers, sizes=sizes))
    assert "Union density 42.1%" in document
