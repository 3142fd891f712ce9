"""`clsuite report --figures pdf|svg|png`: the main figures of the pages as files for a paper, and its tables."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from .drawing import DRAWN, drawings, style
from .page import Figure, Page
from .paper_tables import ranking_files, verdict_files
from .study import Study

FORMS = ("pdf", "svg", "png")
UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
"""The same numbers make the same bytes: no time of making is written."""
MADE = re.compile(rf"(?:{'|'.join(DRAWN)})(?:_\d+)?\.(?:{'|'.join(FORMS)})|(?:ranking|verdicts)\.(?:tex|md|csv)")
"""Names this module writes: what else lies in the folder is not its own."""


def checked(form: str | None) -> str | None:
    """The form of figures that was asked for; raises `UsageError` for one there is none of."""
    if form is not None and form not in FORMS:
        raise UsageError(f"--figures = '{form}' is not valid: expected {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    return form


def write(study: Study, pages: Sequence[Page], folder: Path, form: str) -> list[Path]:
    """Write the figures of pages that are for papers, and the tables of ranking and verdicts as LaTeX, Markdown and CSV; their paths.

    What an earlier call left in the folder is replaced. Figures are 3.3 inches wide, crowded ones 6.8: they are not to be scaled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_file() and MADE.fullmatch(old.name):
            old.unlink()
    written = []
    found = [block for page in pages for section in page.sections for block in section.blocks if isinstance(block, Figure)]
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # names in scripts the font lacks are shown as boxes
        for figure in found:
            made = drawings(figure, study)
            for k, drawing in enumerate(made):
                path = folder / f"{figure.name}{f'_{k + 1}' if len(made) > 1 else ''}.{form}"
                drawing.savefig(path, format=form, metadata=UNDATED[form])
                written.append(path)
    for name, text in {**ranking_files(study), **verdict_files(study)}.items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written
