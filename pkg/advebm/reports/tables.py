"""Tables, and how they are written in Markdown."""

from typing import Any, NamedTuple


class Beside(NamedTuple):
    """A cell of a paper's table: our number and the published one."""

    ours: Any
    published: Any


class Table(NamedTuple):
    """A section of a page: a heading, a table and notes under it. A cell is text, a number, Beside, or None where nothing
    applies. Without rows there is no table."""

    title: str
    header: list[str]
    rows: list[list[Any]]
    notes: tuple[str, ...] = ()
    level: int = 2  # of the heading


def text(value: Any) -> str:
    """A cell as text; None is a dash."""
    if isinstance(value, Beside):  # an ASCII bar would end the cell in Markdown
        return "-" if value == (None, None) else f"{text(value.ours)} │ {text(value.published)}"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def within(value: float | None, interval: list[float] | None) -> str | float | None:
    """A number and its 95% interval."""
    return value if value is None or interval is None else f"{value:.4f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def about(value: float | None, error: float | None) -> str | float | None:
    """A number and its error or deviation."""
    return value if value is None or error is None else f"{value:.4g} ± {error:.2g}"


def plain(value: Any) -> str:
    """A cell as text that Markdown shows as it is: without HTML, in one line and one cell."""
    return " ".join(text(value).replace("<", "&lt;").replace("|", "\\|").splitlines())


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    """The lines of a Markdown table with aligned columns."""
    cells = [[plain(value) for value in line] for line in [header, *rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def document(title: str, parts: list[Table]) -> str:
    """A page in Markdown, without HTML."""
    blocks = [f"# {title}"]
    for part in parts:
        blocks.append(f"{'#' * part.level} {part.title}")
        if part.rows:
            blocks.append("\n".join(table(part.header, part.rows)))
        blocks += part.notes
    return "\n\n".join(blocks).replace("<", "&lt;") + "\n"
