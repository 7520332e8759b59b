"""Fails the build of the site where a page would load something from another host.

MkDocs calls `on_post_build`. Links that a reader clicks are fine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LOADS = re.compile(
    r"""<(?:img|script|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preload|preconnect|manifest))[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:@import|url\()\s*["']?(?:https?:)?//[^"')\s]+"""
)


def on_post_build(config: Any) -> None:
    """Called by MkDocs when all files of the site are written."""
    site = Path(config["site_dir"])
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    found = [f"{page.name}: {tag}" for page in pages for tag in outside(page.read_text(encoding="utf-8"))]
    if found:
        raise SystemExit("the site would load from other hosts:\n" + "\n".join(found))


def outside(text: str) -> list[str]:
    """What a page or a style sheet would load from another host."""
    return [match[0] for match in LOADS.finditer(text)]
