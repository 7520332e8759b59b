"""Pages for people: one HTML file each, with everything in it, made from documents, arrays and ready images.

Knows no model, no data set and no run folder: what a page shows is handed in. Every value is escaped on its way into
the page, since names of classes, files and metadata are somebody else's text, and the page's own policy lets nothing
be loaded from outside.
"""

from __future__ import annotations

import functools
from typing import Any

import jinja2

from natix_hf.report.summary import figure_text, interval_text


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("natix_hf.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure_text, "interval": interval_text, "percent": percent}
    return environment


def render(template: str, **context: Any) -> str:
    """A page from one of the templates in `report/templates`, which extend `base.html.jinja`.

    Args:
        template: its file name, e.g. `comparison.html.jinja`.
        context: what it shows; text is escaped, whatever it is.
    """
    return _environment().get_template(template).render(**context)


def percent(share: float | None, digits: int = 1) -> str:
    """`0.1234` as `12.3 %`, a dash where it is not defined."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"
