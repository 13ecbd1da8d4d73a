"""The page of a training, to watch it: a file for any browser, without a server."""

from html import escape
from pathlib import Path

from advebm.figures.plots import WORDS
from advebm.runtime import disk

EVERY = 10  # seconds after which a browser loads the page again
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #fff; --text: #222; --soft: #555; --line: #ddd; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --page: #16181b; --text: #e3e3e3; --soft: #aaa; --line: #3a3d42; }}
}}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); }}
body {{ max-width: 1250px; margin: 0 auto; padding: 0 1rem 3rem; }}
h1 {{ font-size: 1.5rem; }} p, figcaption {{ color: var(--soft); }}
dl {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .25rem 1rem; }}
dl div {{ border-bottom: 1px solid var(--line); }} dt {{ color: var(--soft); font-size: .85rem; }} dd {{ margin: 0; }}
main {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; max-width: 100%; overflow-x: auto; }} img {{ max-width: 100%; display: block; }}
@media (max-width: 700px) {{ .wide img {{ max-width: none; width: 44rem; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Step {step}. {when}</p>
<dl>
{numbers}
</dl>
<main>
{pictures}
</main>
</body>
</html>
"""


def live(folder: Path, title: str, record: dict[str, float], *, last: bool) -> None:
    """Write live.html: a training's last record, its curves and its newest pictures. Until the last record a browser that
    shows it loads it again every 10 seconds."""
    shown = {"curves": folder / "curves.png", **disk.newest(folder / "grids")}
    numbers = {name: value for name, value in record.items() if name != "step"}
    content = PAGE.format(
        title=escape(f"{title}: training"),
        refresh="" if last else f'<meta http-equiv="refresh" content="{EVERY}">\n',
        step=f"{int(record['step']):,}",
        when="Training is complete." if last else "Means since the last record, and scores of the validation images.",
        numbers="\n".join(f"<div><dt>{_words(name)}</dt><dd>{value:.4g}</dd></div>" for name, value in numbers.items()),
        pictures="\n".join(_figure(folder, name, file) for name, file in shown.items() if file.exists()),
    )
    disk.write(folder / "live.html", content.encode())


def _words(name: str) -> str:
    source, _, number = name.partition("/")
    return escape(f"{WORDS.get(number, number)}, {WORDS.get(source, source)}")


def _figure(folder: Path, name: str, file: Path) -> str:
    caption, kind = escape(name.replace("_", " ")), "wide" if name == "curves" else "sheet"
    source = file.relative_to(folder).as_posix()
    return f'<figure class="{kind}"><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
