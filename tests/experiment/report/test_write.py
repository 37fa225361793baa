from __future__ import annotations

import base64
import os
import re
import shutil
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.findings import gather
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.report.write import write_results
from asr_pathways.formats import percent, percent_interval, points
from tests.experiment.example import as_data, fill, planned
from tests.experiment.report.page import Page

README = "# Pathways\n\n<!-- results -->\nold\n<!-- /results -->\n\nThe end.\n"
DISCUSSION = "## Conclusions\n\nIt *works*.\n"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared(folder: Path) -> Path:
    """A folder with a ledger and the texts that people wrote."""
    fill(planned(), folder / "run")
    (folder / "README.md").write_text(README)
    (folder / "discussion.md").write_text(DISCUSSION)
    return folder


PATHS = {"document": "docs/results.md", "discussion": "discussion.md", "readme": "README.md", "main": "folds"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepared(tmp_path_factory.mktemp("made"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_results(planned(**PATHS), Path("run"), "make results")
    finally:
        os.chdir(before)
    return folder


def test_the_same_bytes_elsewhere_and_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another folder, by another way to it, over what is there already, cells having come in another order."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / "ledger")
    for path in sorted((made / "run" / "ledger").iterdir(), reverse=True):
        (tmp_path / "run" / "ledger").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "run" / "ledger")
    (tmp_path / "docs" / "results.md").unlink()
    (tmp_path / "docs" / "results" / "of-before.svg").write_text("<svg/>")
    monkeypatch.chdir(tmp_path)
    write_results(planned(**PATHS), tmp_path / "run", "make results")
    assert files(tmp_path) == files(made)


def test_what_is_written(made: Path) -> None:
    names = {name for name in files(made) if not name.startswith("run/ledger")}
    figures = {name for name in names if name.endswith(".svg")}
    assert names - figures == {"README.md", "discussion.md", "docs/results.md", "run/report.html", "run/results.json"}
    assert {Path(name).parent.as_posix() for name in figures} == {"docs/results"}
    for name in names:
        text = (made / name).read_text()
        assert str(made) not in text and not re.search(r"20\d\d-\d\d-\d\d", text)


def test_charts_are_linked_and_in_the_page(made: Path) -> None:
    document = (made / "docs/results.md").read_text()
    links = re.findall(r"\]\((results/[^)]*\.svg)\)", document)
    assert sorted(f"docs/{link}" for link in links) == sorted(name for name in files(made) if name.endswith(".svg"))
    images = Page((made / "run/report.html").read_text()).all("img")
    assert len(images) == len(links) == 6
    for image, link in zip(images, links, strict=True):
        assert image["alt"] and f"![{image['alt']}" in document.replace("\\", "")
        assert base64.b64decode((image["src"] or "").partition("base64,")[2]) == (made / "docs" / link).read_bytes()


def test_both_documents_say_the_same(made: Path) -> None:
    page = Page((made / "run/report.html").read_text())
    document = Page(MarkdownIt("commonmark").enable("table").render((made / "docs/results.md").read_text()))
    for tag in ("h1", "h2", "h3", "li", "p", "strong", "em", "code", "td", "th"):
        assert page.text(tag) == document.text(tag), tag
    assert len(page.all("table")) == len(document.all("table"))


def test_order_of_the_report(made: Path) -> None:
    document = (made / "docs/results.md").read_text()
    assert re.findall(r"^#+ .*$", document, flags=re.MULTILINE) == [
        "# Masks & \\<measures>",
        "## Conclusions",
        "## Block folds",
        "### Table B: multilingual",
        "### Table A: monolingual",
        "### Comparisons: folds",
        "### Figures: folds",
        "## Block plain",
        "### Table B: multilingual",
        "### Sparsity",
        "### Figures: plain",
        "## How to read this",
        "## Data",
        "## No result yet",
    ]
    first = document.split("\n\n")[1]
    assert first == (
        "**Of 3 planned claims, 1 holds, 1 does not hold and 1 is not decided.** Refuted: Stages beat adapting."
    )


def test_claims_and_what_is_missing(made: Path) -> None:
    page = Page((made / "run/report.html").read_text())
    items = page.text("li")
    lines = (made / "docs/results.md").read_text().splitlines()
    (line,) = [
        line for line in lines if line.startswith("| Adapting beats IMP (folds: adaptive − IMP) | yes | **holds** | −")
    ]
    assert line.endswith(" | 0.0008 | 2 of 2 |")
    assert "| Fixed beats dense (folds: fixed − PARP) | yes | not decided |  |  |  |  | none yet |" in lines
    assert any(item.startswith("the dense model that it came from: +") for item in items)
    assert "8 of 35 cells have no result yet; the last section names them." in page.text("p")
    assert "folds: LTH (1 of 4); PARP (4 of 4); fixed (1 of 2)" in items
    assert "No results in common yet: adaptive and PARP; fixed and PARP." in page.text("p")


def test_tables_show_the_pooled_numbers(made: Path) -> None:
    results = gather(planned(), made / "run" / "ledger").blocks["folds"]
    document = (made / "docs/results.md").read_text()
    for row in results.rows.values():
        lines = [line for line in document.splitlines() if line.startswith(f"| {row.name} ")]
        if row.pooled is None or not row.system.table:
            assert lines == []
            continue
        rates = " | ".join(percent(rate.wer) for rate in row.pooled.languages.values())
        mean = f"**{percent(row.pooled.wer)}** ({percent_interval(row.pooled.wer_ci)})"
        base = results.base_wer[row.seeds]
        against = "" if row is results.base else points(row.pooled.wer - base)
        assert f"| {rates} | {mean} | {against} | {percent(row.pooled.cer)} | {row.pooled.loss:.3f} |" in lines[0]
    (partly,) = [line for line in document.splitlines() if line.startswith("| LTH ")]
    assert "LTH (1 of 2 seeds)" in partly and "| 20 (each) | 20 (each) |" in partly and partly.endswith("|  |  |")
    (dynamic,) = [line for line in document.splitlines() if line.startswith("| dynamic |")]
    assert "| dynamic | 70 | 100 | 110 |" in dynamic and dynamic.endswith("| 40.0 | 0.75 |")
    # The dense model stands at the head of table A too.
    assert len([line for line in document.splitlines() if line.startswith("| dense |")]) == 4
    (pair,) = [line for line in document.splitlines() if line.startswith("| adaptive − IMP |")]
    assert "| **better** | **−" in pair and "0.0008\\*" in pair and pair.endswith("| 2 of 2 |")


def test_the_readme_has_the_main_table(made: Path) -> None:
    text = (made / "README.md").read_text()
    assert text.startswith("# Pathways\n\n<!-- results -->\n") and text.endswith("<!-- /results -->\n\nThe end.\n")
    assert "old" not in text
    page = Page(MarkdownIt("commonmark").enable("table").render(text))
    rows = page.text("td")
    assert [
        name for name in rows if name.split(" (")[0] in ("IMP", "adaptive", "LTH", "dense", "fixed", "dynamic")
    ] == [
        "IMP (iterative)",
        "adaptive",
        "dense",
        "dynamic",
    ]
    assert page.text("code") == ["make results"] and page.all("a") == [{"href": "docs/results.md"}]


def test_without_anything_yet(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README)
    plan = planned(readme=str(tmp_path / "README.md"), main="folds")
    write_results(plan, tmp_path / "run")
    document = (tmp_path / "run" / "results.md").read_text()
    assert (
        f"{len(plan.cells)} of {len(plan.cells)} cells have no result yet" in document
        and "There are no results yet." in document
    )
    assert "No results yet." in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "run" / "results").exists()


@pytest.mark.parametrize("text", ["# No marks\n", "<!-- /results --> <!-- results -->", "<!-- results -->"])
def test_a_readme_without_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    plan = planned(readme=str(path), main="folds")
    with pytest.raises(PathwaysError, match=r"README.md: no place for the results: write the lines <!-- results -->"):
        write_results(plan, tmp_path / "run")
    assert [item.name for item in tmp_path.iterdir()] == ["README.md"] and path.read_text() == text


@pytest.mark.parametrize("key", ["discussion", "readme"])
def test_a_text_that_is_not_there_is_named(tmp_path: Path, key: str) -> None:
    plan = planned(**{key: str(tmp_path / "nowhere.md"), "main": "folds"})
    with pytest.raises(PathwaysError, match=r"nowhere.md: cannot read"):
        write_results(plan, tmp_path / "run")
    (tmp_path / "nowhere.md").write_bytes(b"\xff\xfe")
    with pytest.raises(PathwaysError, match=r"nowhere.md: not UTF-8 text"):
        write_results(plan, tmp_path / "run")


def test_a_table_named_by_hand_and_a_name_that_is_not_text(tmp_path: Path) -> None:
    data = as_data(claims=[])
    block = data["blocks"]["plain"]
    block["systems"] = {"a|b *c* <d>": {"method": "dense", "table": "Ours: <new>"}}
    del data["blocks"]["folds"]
    plan = make_plan(ExperimentRecipe.model_validate(data))
    fill(plan, tmp_path)
    write_results(plan, tmp_path)
    page = Page(MarkdownIt("commonmark").enable("table").render((tmp_path / "results.md").read_text()))
    assert "Ours: <new>" in page.text("h3") and "a|b *c* <d>" in page.text("td")


def test_the_committed_documents_are_what_the_ledger_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody typed a figure into them, nobody forgot `make results`."""
    repository = Path(__file__).parents[3]
    read = [repository / "README.md", repository / "docs/discussion.md", *repository.glob("results/neurons.json")]
    for path in read:  # of speeds the page says that there are none yet
        copy = tmp_path / path.relative_to(repository)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    monkeypatch.chdir(tmp_path)
    for name in ("whisper", "long", "paper"):  # the first writes a table into the discussion, which the second takes in
        shutil.copytree(repository / f"results/{name}/ledger", tmp_path / f"results/{name}/ledger")
        plan = make_plan(ExperimentRecipe.read(repository / f"recipes/{name}.yaml"))
        command = f"asr-pathways experiment recipes/{name}.yaml --out results/{name} --report"
        write_results(plan, Path(f"results/{name}"), command)
    made = {name: text for name, text in files(tmp_path).items() if "/ledger/" not in name}
    made = {name: text for name, text in made.items() if not name.startswith("results/")}  # which git ignores
    assert len(made) > 10
    assert [name for name, text in made.items() if (repository / name).read_bytes() != text] == []
    assert {path.name for path in (repository / "docs/results").iterdir()} == {
        Path(name).name for name in made if name.startswith("docs/results/")
    }
