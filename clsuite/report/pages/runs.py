from __future__ import annotations

from ..page import Page
from ..study import Study


def page(study: Study) -> Page | None:
    return None
