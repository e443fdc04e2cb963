"""Sphinx settings of the site; build.py beside this file runs them."""

import hashlib
import json
from base64 import b64decode
from pathlib import Path

from docutils import nodes

project = "Dreamer Lite"
author = "Dreamer Lite contributors"
html_title = project
extensions = ["myst_nb", "sphinx-mathjax-offline"]  # formulas without a network
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "html_image"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],  # one search field, in the sidebar
}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["asides.js"]
html_show_sphinx = False
html_last_updated_fmt = None


def stored_alt_texts(source):
    """Return {sha256 of a stored picture: its alt text} for all notebooks."""
    found = {}
    for path in Path(source).rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                for kind, about in output.get("metadata", {}).items():
                    if kind.startswith("image/") and "alt" in about:
                        picture = b64decode("".join(output["data"][kind]))
                        found[hashlib.sha256(picture).hexdigest()] = about["alt"]
    return found


def pass_on_alt_texts(app, doctree):
    """Give each picture of a notebook its alt text; its file is named by its hash."""
    alt_texts = stored_alt_texts(app.srcdir)
    for image in doctree.findall(nodes.image):
        stored = alt_texts.get(Path(image["uri"]).stem)
        if stored:
            image["alt"] = stored


def setup(app):
    """Register the step with Sphinx."""
    app.connect("doctree-read", pass_on_alt_texts)
