"""Build the web site of the course: README, notebooks, reference pages.

    python tools/site/build.py        writes build/site/html, needs no network

Sources are gathered in build/site/source under their names in the repository, so that
links between them hold. Every warning is an error.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LINK = re.compile(r"""\]\(\s*<?([^)\s#>]+)|(?:src|href)=["']([^"'#]+)""")
GITHUB = re.compile(r"^\[!\[.*\]\(\.\./\.\./actions/.*\n", re.MULTILINE)  # the badges
TERM = re.compile(r"^\*\*(.+?)\.\*\*", re.MULTILINE)
TOC = """

```{{toctree}}
:caption: {caption}
:hidden:
{pages}
```
"""


def pages(root):
    """Return the pages of the site, as (caption, [path in the repository])."""
    groups = {
        "Notebooks": ["notebooks/[0-9][0-9]_*.ipynb"],
        "Beyond": ["notebooks/beyond/*.ipynb"],
        "Reference": ["notebooks/reference/*.md"],
        "About": ["data/README.md", "CONTRIBUTING.md"],
    }
    return [
        (
            caption,
            [p.relative_to(root) for one in found for p in sorted(root.glob(one))],
        )
        for caption, found in groups.items()
    ]


def gather(root, source):
    """Copy the pages and what they link to into the folder `source`."""
    shutil.rmtree(source, ignore_errors=True)
    groups = pages(root)
    for page in [Path("README.md"), *(p for _, ps in groups for p in ps)]:
        text = (root / page).read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            text = prepare(text)
        text = text.replace("../README.md)", "../index.md)")  # the site's first page
        text = GITHUB.sub("", text)
        if page.stem == "glossary":  # the search then leads to its terms
            text = TERM.sub(r"```{index} ! \1\n```\n\g<0>", text)
        target = source / ("index.md" if page == Path("README.md") else page)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        for linked in links(root, page, text):
            if not (source / linked).exists():
                (source / linked).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / linked, source / linked)
    with (source / "index.md").open("a", encoding="utf-8") as index:
        for caption, paths in groups:
            if paths:
                names = "\n".join(str(path.with_suffix("")) for path in paths)
                index.write(TOC.format(caption=caption, pages=names))


def prepare(text):
    """Fold the setup cell of a notebook away, because nobody runs a page.

    Cells with the tag hide-input are folded by myst-nb itself.
    """
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "setup" in tags:
            cell["metadata"]["tags"] = [*tags, "hide-cell"]
    return json.dumps(notebook)


def links(root, page, text):
    """Return the files of the repository, other than pages, that a page links to."""
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        prose = [c["source"] for c in cells if c["cell_type"] == "markdown"]
        text = "\n".join("".join(source) for source in prose)
    found = []
    for pair in LINK.findall(text):
        target = (root / page.parent / "".join(pair)).resolve()
        if target.is_file() and target.is_relative_to(root):
            found.append(target.relative_to(root))
    return [path for path in found if path.suffix not in (".ipynb", ".md")]


def bad_pictures(html):
    """Return one line for each picture without a file or without alt text."""
    lines = []
    for page in sorted(html.rglob("*.html")):
        for picture in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8")):
            name = re.search(r'\bsrc="([^"]+)"', picture)[1]
            if not name.startswith("data:") and not (page.parent / name).is_file():
                lines.append(f"site: {page.name}: no picture {name}")
            if not re.search(r'\balt="(?![^"]*\.(png|gif)")[^"]*[A-Za-z]', picture):
                lines.append(f"site: {page.name}: no alt text: {picture[:80]}")
    return lines


def build(root=ROOT):
    """Build the site; return the exit status."""
    folder = root / "build" / "site"
    gather(root, folder / "source")
    shutil.rmtree(folder / "html", ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += ["-c", str(HERE), "-d", str(folder / "doctrees")]
    command += [str(folder / "source"), str(folder / "html")]
    status = subprocess.run(command, check=False).returncode
    found = bad_pictures(folder / "html")
    print("\n".join(found or [f"site: {(folder / 'html').relative_to(root)}"]))
    return 1 if status or found else 0


if __name__ == "__main__":
    sys.exit(build())
