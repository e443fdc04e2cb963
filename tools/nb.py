"""The notebooks and their text halves: keep them in step, run them, check them.

    python tools/nb.py from-text [05 ...]   text -> notebook, outputs kept
    python tools/nb.py from-nb   [05 ...]   notebook -> text, after edits in Jupyter
    python tools/nb.py run       [05 ...]   export, execute afresh, store the outputs
    python tools/nb.py check     [05 ...]   CI: one line for everything that is wrong
    python tools/nb.py stamp     [URL]      write the repository's address everywhere

You always say the direction; it is never guessed from the files' dates. A cell's id
follows from its text, so that the same text gives the same notebook, byte for byte.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import jupytext
import nbformat

import nb_check
from export import logic as export

ROOT = Path(__file__).resolve().parents[1]
FILTERS = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}
FOLDED = {"setup", "hide-input"}  # tags of cells that JupyterLab shows folded
KERNEL_PATH = re.compile(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py")
COLAB = "https://colab.research.google.com"
BADGE = (
    f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
    f"({COLAB}/github/{{repo}}/blob/main/notebooks/{{name}}.ipynb)"
)
SETUP = """\
# @title Setup, the same in every notebook: find Dreamer Lite; on Colab, fetch it
import sys
from pathlib import Path
{fetch}
where = [p for p in ("dreamer-lite/notebooks", ".", "..") if Path(p, "course").is_dir()]
sys.path[:0] = where or sys.exit("Open this notebook inside its repository.")
import course"""
FETCH = """
if "google.colab" in sys.modules and not Path("dreamer-lite").is_dir():
    !git clone -q --depth 1 {url} dreamer-lite
"""
# Run by the kernel before the first cell: which files of data/ the notebook opens.
WATCH = """\
import os, sys
def note(event, args, data={data!r}, log=open({log!r}, "a", buffering=1)):
    if event == "open" and isinstance(args[0], (str, os.PathLike)):
        path = os.path.realpath(args[0])
        if path.startswith(data):
            log.write(path + "\\n")
sys.addaudithook(note)
"""


# The normal form


def clean(nb, name=""):
    """Bring a notebook into normal form, in place: same text, same bytes."""
    data = nb.metadata.get("data_files")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}}
        | ({"accelerator": "GPU"} if name == "10_mario" else {})
        | ({"data_files": data} if data else {})
    )
    nb.nbformat, nb.nbformat_minor = 4, 5
    seen = {}
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict(_metadata(nb_check.tags(cell)))
        cell.pop("attachments", None)
        cell.source = cell.source.rstrip()
        key = (cell.cell_type, cell.source)
        seen[key] = seen.get(key, 0) + 1
        text = "\0".join([*key, str(seen[key])])
        cell.id = hashlib.sha1(text.encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            cell.setdefault("execution_count", None)
            cell.outputs = _clean_outputs(cell.get("outputs", []))
    return nb


def _metadata(tags):
    """Return a cell's metadata, which follows from its tags."""
    found = {"tags": sorted(tags)} if tags else {}
    if FOLDED & tags:
        found["jupyter"] = {"source_hidden": True}
    if "aside" in tags:  # JupyterLab's and Colab's name for a folded section
        found |= {"jp-MarkdownHeadingCollapsed": True, "heading_collapsed": True}
    return found | ({"cellView": "form"} if "setup" in tags else {})


def _clean_outputs(outputs):
    """Drop widget views, join split streams, and hide the kernel's temporary files."""
    kept = []
    for output in outputs:
        if any("widget-view" in kind for kind in output.get("data", {})):
            continue
        if output.output_type == "stream":
            output.text = KERNEL_PATH.sub("<cell>", output.text)
            last = kept[-1] if kept else {}
            if last.get("output_type") == "stream" and last["name"] == output.name:
                last["text"] += output.text
                continue
        if output.output_type != "execute_result":
            output.pop("execution_count", None)
        kept.append(output)
    return kept


def text_of(nb):
    """Return the text half of a notebook."""
    plain = nbformat.v4.new_notebook(cells=nb.cells, metadata={"jupytext": FILTERS})
    return jupytext.writes(plain, "py:percent")


def name_of(path):
    """Return a notebook's name below notebooks/: 05_rssm or beyond/driving."""
    inside = path.parts[len(path.parts) - path.parts[::-1].index("notebooks") :]
    return "/".join(inside).removesuffix(".ipynb")


def text_path(path):
    """Return the path of a notebook's text half."""
    name = name_of(path)
    return path.parents[name.count("/")] / "text" / f"{name}.py"


def in_step(path, nb):
    """Say whether the text half at `path` agrees with the notebook."""
    text = text_path(path)
    return text.is_file() and text.read_text(encoding="utf-8") == text_of(nb)


def read(path):
    """Read a notebook; a broken one gives one clear line."""
    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        raise ValueError(f"{path.stem}: not a readable notebook ({error})") from None


def write(path, nb):
    """Write a notebook and its text half."""
    text_path(path).parent.mkdir(parents=True, exist_ok=True)
    text_path(path).write_bytes(text_of(nb).encode())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((nbformat.writes(nb).rstrip("\n") + "\n").encode())


# The cells that are the same in every notebook


def address(root):
    """Return the repository's address in pyproject.toml, "" before it is stamped."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"].get("urls", {}).get("Repository", "")


def setup_cell(url):
    """Return the setup cell's source."""
    return SETUP.format(fetch=FETCH.format(url=url) if url else "")


def stamp_cells(nb, root, name):
    """Put the setup cell, and the badge if there is an address, after the title."""
    url = address(root)
    setup = nbformat.v4.new_code_cell(setup_cell(url), metadata={"tags": ["setup"]})
    old = [c for c in nb.cells if {"badge", "setup"} & nb_check.tags(c)]
    # The setup cell prints nothing, so a new address does not make it stale.
    counts = [c.execution_count for c in old if c.cell_type == "code"]
    setup.execution_count = counts[0] if counts else None
    stamped = [setup]
    if url.startswith("https://github.com/"):
        repo = re.sub(r"^https://github\.com/|\.git$", "", url)
        badge = BADGE.format(repo=repo, name=name)
        stamped.insert(
            0, nbformat.v4.new_markdown_cell(badge, metadata={"tags": ["badge"]})
        )
    rest = [c for c in nb.cells if not any(c is o for o in old)]
    nb.cells = rest[:1] + stamped + rest[1:]
    return clean(nb, name)


def stamp(root, url=None):
    """Write the repository's address into pyproject.toml and all notebooks."""
    if url is None:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise ValueError("There is no git remote 'origin': nb.py stamp URL")
        url = answer.stdout.strip()
    url = re.sub(r"^(ssh://)?git@([^:/]+)[:/]", r"https://\2/", url)
    url = re.sub(r"//[^/@]*@", "//", url)  # a user name or token stays at home
    path = root / "pyproject.toml"
    text = re.sub(r"\[project\.urls\]\n.*\n\n", "", path.read_text(encoding="utf-8"))
    urls = f'[project.urls]\nRepository = "{url}"\n\n[tool.'
    path.write_text(text.replace("[tool.", urls, 1), encoding="utf-8")
    for notebook in select(root, []):
        from_nb(notebook, root)
    return url


# The commands


def formatted(nb, path):
    """Return the notebook with its code cells as ruff formats them."""
    command = [sys.executable, "-m", "ruff", "format", "-q", "--stdin-filename", path]
    text = nbformat.writes(clean(nb)).encode()
    done = subprocess.run([*command, "-"], input=text, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"{path.stem}: {done.stderr.decode().strip()}")
    return nbformat.reads(done.stdout.decode(), as_version=4)


def from_text(path, root, _timeout=None):
    """Text -> notebook. Cells whose text is unchanged keep their outputs."""
    nb = jupytext.reads(text_path(path).read_text(encoding="utf-8"), "py:percent")
    nb = stamp_cells(formatted(nb, path), root, name_of(path))
    if path.is_file():
        old = stamp_cells(read(path), root, name_of(path))
        nb.metadata = old.metadata
        done = {cell.id: cell for cell in old.cells if cell.cell_type == "code"}
        for cell in nb.cells:
            if cell.id in done:
                cell.outputs = done[cell.id].outputs
                cell.execution_count = done[cell.id].execution_count
    write(path, nb)


def from_nb(path, root, _timeout=None):
    """Notebook -> text, and the notebook itself into normal form."""
    nb = formatted(read(path), path)
    write(path, stamp_cells(nb, root, name_of(path)))


def run(path, root, timeout=900):
    """Export, execute in a fresh kernel, store the outputs, unless one is wrong."""
    nb = read(path)
    if not in_step(path, nb):
        raise ValueError(
            f"{path.stem}: text and notebook differ: from-text or from-nb?"
        )
    if path.parent.name == "notebooks":
        export.write(root, [path])
    opened = execute(nb, path, root, timeout)
    nb.metadata["data_files"] = nb_check.hashes(opened, root)
    stamp_cells(nb, root, name_of(path))
    found = nb_check.outputs(nb, path.stem, root)
    if found:
        raise ValueError("\n".join(["not stored:", *found]))
    write(path, nb)


def execute(nb, path, root, timeout):
    """Run all cells in a fresh kernel, in place; return the files of data/ opened."""
    from nbclient import NotebookClient
    from nbclient.exceptions import (
        CellExecutionError,
        CellTimeoutError,
        DeadKernelError,
    )

    started = []
    with tempfile.TemporaryDirectory() as folder:
        startup, log = Path(folder, "profile_default/startup"), Path(folder, "opened")
        startup.mkdir(parents=True)
        data = f"{(root / 'data').resolve()}{os.sep}"
        (startup / "0.py").write_text(WATCH.format(data=data, log=str(log)))
        client = NotebookClient(
            nb,
            timeout=timeout,
            startup_timeout=180,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_execute=lambda cell, cell_index: started.append(cell.source),
        )
        try:
            client.execute(
                env={**os.environ, "DREAMER_LITE_STATIC": "1", "IPYTHONDIR": folder}
            )
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            said = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()
            first = next(iter(started[-1].splitlines()), "")
            where = f"{path.stem}: code cell {len(started)} ({first!r}) stopped:"
            raise ValueError("\n    ".join([where, *said[-15:]])) from None
        return set(log.read_text().splitlines())


def check(root, paths, whole):
    """Return one line for everything that is wrong with the notebooks."""
    found, notebooks = [], []
    if whole:
        texts = sorted((root / "notebooks" / "text").rglob("*.py"))
        known = {text_path(path) for path in select(root, [])}
        found += [f"{t.stem}: text without a notebook" for t in texts if t not in known]
        found += export.problems(root)
    for path in paths:
        try:
            nb = read(path)
        except ValueError as error:
            found.append(str(error))
            continue
        notebooks.append(nb)
        found += nb_check.notebook(nb, path, root)
        if not in_step(path, nb):
            found.append(
                f"{path.stem}: text and notebook differ: run from-text or from-nb"
            )
        elif text_of(stamp_cells(nb, root, name_of(path))) != text_of(read(path)):
            found.append(f"{path.stem}: badge or setup cell differs: run from-nb")
    return found + (nb_check.exceptions_to_nbval(notebooks) if whole else [])


def select(root, names, from_text=False):
    """Return the notebooks named by number or by stem; all of them if none is named."""
    folder = root / "notebooks"
    paths = [*folder.glob("[0-9][0-9]_*.ipynb"), *folder.glob("beyond/*.ipynb")]
    if from_text:
        texts = (folder / "text").rglob("*.py")
        paths = [folder / t.relative_to(folder / "text") for t in texts]
        paths = [path.with_suffix(".ipynb") for path in paths]
    wanted = [n.zfill(2) if n.isdigit() else Path(n).stem for n in names]
    for name in wanted:
        if not any(path.stem.startswith(name) for path in paths):
            raise ValueError(f"There is no notebook '{name}'.")
    return sorted(p for p in paths if not wanted or p.stem.startswith(tuple(wanted)))


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = {"from-text": from_text, "from-nb": from_nb, "run": run}
    parser.add_argument("command", choices=[*actions, "check", "stamp"])
    parser.add_argument("which", nargs="*", help="numbers, or the address for stamp")
    parser.add_argument("--timeout", type=int, default=900, help="seconds per cell")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    root, failed = options.root.resolve(), 0
    if options.command == "stamp":
        print(f"stamped {stamp(root, *options.which[:1])}")
        return 0
    try:
        paths = select(root, options.which, options.command == "from-text")
    except ValueError as error:
        parser.error(str(error))
    if options.command == "check":
        found = check(root, paths, whole=not options.which)
        print("\n".join(found or [f"{len(paths)} notebooks in order"]))
        return 1 if found else 0
    for path in paths:  # go on after a failure, report all
        try:
            actions[options.command](path, root, options.timeout)
            print(f"{options.command} {path.stem}", flush=True)
        except (ValueError, OSError) as error:  # ExportError is a ValueError
            failed = 1
            print(error, file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
