"""The templates of the pages: one file each that needs nothing beside it, with one style and one script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nxm_sweep.report.drawing import Picture


def fill(template: str, values: dict[str, Any]) -> str:
    """Return a page: whatever stands in ``values`` is text in it, unless it is marked as a page's own."""
    environment = Environment(
        loader=PackageLoader("nxm_sweep.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    script = f"\n{_file('page.js')}"
    return environment.get_template(template).render(
        style=Markup(_file("page.css")),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def drawn(picture: Picture) -> dict[str, Any]:
    """Return a picture as the templates take it."""
    panels = [Markup(panel.svg) for panel in picture.panels]  # noqa: S704 - matplotlib escapes what it writes
    return {"name": picture.name, "title": picture.title, "words": picture.words, "panels": panels}


@cache
def _file(name: str) -> str:
    return (files("nxm_sweep.report") / "templates" / name).read_text(encoding="utf-8")
