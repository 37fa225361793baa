"""What the documentation's site has beside docs/*.md: other files of the repository, and what is made from the code."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import typer.cli
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from asr_pathways.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "SECURITY.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "models/tiny/README.md": "models/tiny.md",
}
"""{a file of the repository: its page}."""

FOLDERS = {"recipes": ("recipe-files.md", "*.yaml", "yaml"), "examples": ("example-files.md", "*.py", "python")}
"""{a folder: the page with all of its files, which files, and their language}."""

PYTHON = (
    "asr_pathways.pruning.Pathways",
    "asr_pathways.pruning.PathwayConfig",
    "asr_pathways.runtime.recognizer.Recognizer",
    "asr_pathways.runtime.results",
)
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    made |= {page: _listing(ROOT / folder, pattern, name) for folder, (page, pattern, name) in FOLDERS.items()}
    made["commands.md"] = commands()
    made["python.md"] = "\n\n".join(["# Python", *(f"::: {name}" for name in PYTHON)])
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links to other files of the repository at their pages."""
    path = page.file.src_uri
    sources = {made: source for source, made in PAGES.items()}
    folder = posixpath.dirname(sources.get(path, f"docs/{path}"))

    def pointed(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        anchor = match[3] or ""
        if target in PAGES:
            found = PAGES[target]
        elif (listed := FOLDERS.get(target.partition("/")[0])) is not None:
            found, name = listed[0], target.partition("/")[2]
            anchor = f"#{_anchor(name)}" if name else anchor
        elif target.startswith("docs/"):
            found = target.removeprefix("docs/")
        else:
            return match[0]  # nothing of the site: mkdocs warns of it
        return f"{match[1]}{posixpath.relpath(found, posixpath.dirname(path) or '.')}{anchor})"

    return LINK.sub(pointed, markdown)


def commands() -> str:
    """All commands, their arguments and options, as Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="asr-pathways")
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="asr-pathways", title="Commands")
    return re.sub(r"\[/?(?:bold|dim|green|cyan|red|yellow)\]", "", text)


def _listing(folder: Path, pattern: str, language: str) -> str:
    parts = [f"# {folder.name.capitalize()}"]
    for path in sorted(folder.glob(pattern)):
        code = path.read_text(encoding="utf-8").strip()
        parts.append(f"## {path.name} {{#{_anchor(path.name)}}}\n\n```{language}\n{code}\n```")
    return "\n\n".join(parts) + "\n"


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
