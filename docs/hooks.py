"""The hooks of mkdocs.yml: pages keep their places of the tree, so that their links hold here as they do in the repository;
scripts of examples/ become pages; formulas become MathML, which browsers show without a script."""

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "REFERENCES.md", "CHANGELOG.md", "data/README.md")
FILES = ("stages/job.sh",)  # to which pages link


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and those of docs/ and of the root under the names that they have in the tree."""
    kept = [file for file in files if file.src_dir != config.docs_dir]
    names = [*PAGES, *FILES, *(f"docs/{file.src_uri}" for file in files if file.src_dir == config.docs_dir)]
    sources = [name for name in names if not name.endswith(".py")]
    pages = [File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in sources]
    scripts = [
        File.generated(config, f"examples/{script.stem}.md", content=page(script.read_text(encoding="utf-8")))
        for script in sorted((ROOT / "examples").glob("*.py"))
    ]
    return Files([*kept, *pages, *scripts])


def page(script: str) -> str:
    """The Markdown of a script in the percent format: cells begin with "# %%", those of text with "# %% [markdown]"."""
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        text = "markdown" in kind
        parts.append(re.sub(r"^# ?", "", body, flags=re.M) if text else f"```python\n{body.strip()}\n```\n")
    return "\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to scripts of examples/ lead to their pages."""
    return re.sub(r"\]\((\S*)\.py\)", r"](\1.md)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas, which arithmatex leaves as LaTeX, as MathML."""
    return re.sub(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', formula, html, flags=re.S)


def formula(found: re.Match[str]) -> str:
    if found[1] == "span":
        return convert(unescape(found[2]))
    return f'<div class="formula">{convert(unescape(found[2]), display="block")}</div>'
