"""Writes the README's settings table from flywheel/settings.py: `python -m tools.readme`. A test compares the two."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SETTINGS = ROOT / "flywheel" / "settings.py"
BEGIN, END = "<!-- settings -->", "<!-- end of settings -->"


def explained(section: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """(name, default, explanation) of each field of a settings class, from its source."""
    for field, following in zip(section.body, [*section.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or field.value is None:
            continue
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        yield field.target.id, default_of(field.value), text


def default_of(value: ast.expr) -> str:
    """The default as it is written; of a Field(...) its `default`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        value = next(keyword.value for keyword in value.keywords if keyword.arg == "default")
    return ast.unparse(value).replace("'", '"')


def settings_table() -> str:
    """All settings as a Markdown table, in the order of the file, `Settings` itself first."""
    classes = {node.name: node for node in ast.parse(SETTINGS.read_text()).body if isinstance(node, ast.ClassDef)}
    sections = {
        default.removesuffix("Settings()").lower(): name
        for name, default, _ in explained(classes["Settings"])
        if default.endswith("Settings()")
    }
    rows = [row for row in explained(classes["Settings"]) if row[0] not in sections.values()]
    for stem, name in sections.items():
        section = classes[f"{stem.capitalize()}Settings"]
        rows += [(f"{name}.{field}", default, text) for field, default, text in explained(section)]
    lines = [f"| `{name}` | `{default}` | {text} |" for name, default, text in rows]
    return "\n".join(["| setting | default | |", "|---|---|---|", *lines])


def with_settings(readme: str) -> str:
    """The README's text with the table of today."""
    before, rest = readme.split(BEGIN, 1)
    after = rest.split(END, 1)[-1] if END in rest else rest
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text()))
    sys.stdout.write("README.md holds today's settings.\n")
