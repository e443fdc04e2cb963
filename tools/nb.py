"""The notebooks and their text halves: keep them in step, run them, check them.

    python tools/nb.py from-text [05 ...]   text -> notebook, outputs kept
    python tools/nb.py from-nb   [05 ...]   notebook -> text, after edits in Lab
    python tools/nb.py format    [05 ...]   ruff on the notebook's cells, then from-nb
    python tools/nb.py run       [05 ...]   export, execute afresh, store the outputs
    python tools/nb.py check     [05 ...]   CI: one line for everything that is wrong
    python tools/nb.py stamp     [URL]      write the repository's address everywhere

The direction is always said, never guessed from the files' dates. Cell ids are a
function of the text, so that the same text gives the same notebook, byte for byte.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat

import nb_check
from export import logic as export
from nb_check import COURSE

ROOT = Path(__file__).resolve().parents[1]
TEXT_FORMAT = "py:percent"
FILTERS = {
    "notebook_metadata_filter": "-all",
    "cell_metadata_filter": "tags,jupyter,cellView,-all",
}
KEPT_METADATA = ("cellView", "jupyter", "tags")
ON_GPU = ("10_mario",)  # Colab opens these with a GPU
KERNEL_PATH = re.compile(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py")
BRANCH = "main"
COLAB = "https://colab.research.google.com"
BADGE = (
    f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
    f"({COLAB}/github/{{repo}}/blob/{{branch}}/notebooks/{{stem}}.ipynb)"
)
NO_BADGE = (
    "*To open this notebook in Colab, put the repository on GitHub and run "
    "`python tools/nb.py stamp` in it: that writes the link here.*"
)


# The normal form


def clean(nb, stem=""):
    """Bring a notebook into normal form, in place: same text, same bytes."""
    nb.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    if stem in ON_GPU:
        nb.metadata["accelerator"] = "GPU"
    nb.nbformat, nb.nbformat_minor = 4, 5
    seen = {}
    for cell in nb.cells:
        kept = {k: cell.metadata[k] for k in KEPT_METADATA if k in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        cell.pop("attachments", None)
        cell.source = cell.source.rstrip()
        key = (cell.cell_type, cell.source)
        seen[key] = seen.get(key, 0) + 1
        text = "\0".join([*key, str(seen[key])])
        cell.id = hashlib.sha1(text.encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            cell.setdefault("execution_count", None)
            cell.outputs = _clean_outputs(cell.get("outputs", []))
            if "setup" in kept.get("tags", []):
                cell.outputs = []  # what it says is about one machine on one day
    return nb


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
        if "execution_count" in output and output.output_type != "execute_result":
            del output["execution_count"]
        kept.append(output)
    return kept


def text_of(nb):
    """Return the text half of a notebook."""
    plain = nbformat.v4.new_notebook(cells=nb.cells, metadata={"jupytext": FILTERS})
    return jupytext.writes(plain, TEXT_FORMAT)


def text_path(path):
    """Return the path of a notebook's text half."""
    return path.parent / "text" / f"{path.stem}.py"


def in_step(path, nb):
    """Say whether the text half at `path` agrees with the notebook."""
    text = text_path(path)
    return text.is_file() and text.read_text(encoding="utf-8") == text_of(nb)


def bytes_of(nb):
    """Return the notebook file's bytes."""
    return (nbformat.writes(nb).rstrip("\n") + "\n").encode()


def read(path):
    """Read a notebook; a broken one gives one clear line."""
    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # nbformat raises many kinds
        raise ValueError(f"{path.stem}: not a readable notebook ({error})") from None


def write(path, data):
    """Replace a file as a whole: a reader never sees half of it."""
    data = data if isinstance(data, bytes) else data.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


# The cells that are the same in every notebook


def repo_of(setup):
    """Return the address in the setup cell's `REPO = "..."` line."""
    return re.search(r'^REPO = "(.*?)"', setup, re.MULTILINE).group(1)


def stamp_cells(nb, root, stem):
    """Put the badge cell and the setup cell after the title cell, in place."""
    setup = (root / "tools" / "setup_cell.py").read_text(encoding="utf-8").rstrip()
    repo = re.sub(r"^https://github\.com/|\.git$", "", repo_of(setup))
    on_github = repo_of(setup).startswith("https://github.com/")
    badge = BADGE.format(repo=repo, branch=BRANCH, stem=stem) if on_github else NO_BADGE
    stamped = [
        nbformat.v4.new_markdown_cell(badge, metadata={"tags": ["badge"]}),
        nbformat.v4.new_code_cell(setup, metadata={"tags": ["setup"]}),
    ]
    own = {"badge", "setup"}
    old = [c for c in nb.cells if own & set(c.metadata.get("tags", []))]
    rest = [c for c in nb.cells if c not in old]
    for cell in old:
        # The setup cell prints nothing, so a new address does not make it stale.
        if cell.cell_type == "code":
            stamped[1].execution_count = cell.execution_count
    nb.cells = rest[:1] + stamped + rest[1:]


def stamp(root, url=None):
    """Write the repository's address into the setup cell and all notebooks."""
    if url is None:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise ValueError(
                "no git remote 'origin': give the address, nb.py stamp URL"
            )
        url = answer.stdout.strip()
    url = re.sub(r"^(ssh://)?git@([^:/]+)[:/]", r"https://\2/", url)
    url = re.sub(r"//[^/@]*@", "//", url)  # a user name or token stays at home
    paths = export.notebook_paths(root)
    for notebook in paths:
        if not in_step(notebook, read(notebook)):
            raise ValueError(f"{notebook.stem}: text and notebook differ, see check")
    path = root / "tools" / "setup_cell.py"
    setup = path.read_text(encoding="utf-8")
    write(
        path, re.sub(r'^REPO = ".*?"', lambda _: f'REPO = "{url}"', setup, flags=re.M)
    )
    for notebook in paths:
        from_nb(notebook, root)
    return url


# The commands


def from_text(path, root):
    """Text -> notebook. Cells whose text is unchanged keep their outputs."""
    text = text_path(path).read_text(encoding="utf-8")
    nb = jupytext.reads(text, TEXT_FORMAT)
    stamp_cells(nb, root, path.stem)
    clean(nb, path.stem)
    old = clean(read(path), path.stem).cells if path.is_file() else []
    done = {cell.id: cell for cell in old if cell.cell_type == "code"}
    setup = [c for c in old if "setup" in c.metadata.get("tags", [])]
    for cell in nb.cells:
        before = done.get(cell.id)
        if "setup" in cell.metadata.get("tags", []) and setup:
            before = setup[0]
        if cell.cell_type == "code" and before:
            cell.outputs = before.outputs
            cell.execution_count = before.execution_count
    write(path, bytes_of(nb))
    write(text_path(path), text_of(nb))


def from_nb(path, root):
    """Notebook -> text, and the notebook itself into normal form."""
    nb = read(path)
    stamp_cells(nb, root, path.stem)
    clean(nb, path.stem)
    write(path, bytes_of(nb))
    write(text_path(path), text_of(nb))


def format_cells(path, root):
    """Let ruff tidy the notebook's cells, then write the text half."""
    command = [sys.executable, "-m", "ruff", "format", "-q", str(path)]
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"{path.stem}: ruff could not format it")
    from_nb(path, root)


def run(path, root, timeout=900):
    """Export, execute from a fresh kernel, store the outputs; a failure keeps the file.

    Returns the executed notebook.
    """
    nb = read(path)
    text = text_path(path)
    if not text.is_file() or text.read_text(encoding="utf-8") != text_of(nb):
        raise ValueError(
            f"{path.stem}: text and notebook differ: from-text or from-nb?"
        )
    export.write(root, [path])
    execute(nb, path, timeout)
    clean(nb, path.stem)
    found = nb_check.outputs(nb, path.stem, root)
    if found:
        raise ValueError("\n".join(["not stored:", *found]))
    write(path, bytes_of(nb))
    stale = export.compare(root, path)
    if stale:
        raise ValueError(stale)
    return nb


def execute(nb, path, timeout):
    """Run all cells in a fresh kernel with its own settings folder, in place."""
    from nbclient import NotebookClient
    from nbclient.exceptions import (
        CellExecutionError,
        CellTimeoutError,
        DeadKernelError,
    )

    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    started = []
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "DREAMER_LITE_STATIC": "1", "IPYTHONDIR": folder}
        client = NotebookClient(
            nb,
            timeout=timeout,
            startup_timeout=180,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=lambda cell, cell_index: started.append(cell),
        )
        try:
            client.execute(env=env)
        except CellExecutionError as error:
            lines = re.sub(r"\x1b\[[\d;]*m", "", error.traceback).strip().splitlines()
            tail = "\n    ".join(lines[-15:])
            raise ValueError(
                f"{_where(nb, path, started)} raised\n    {tail}"
            ) from None
        except (CellTimeoutError, DeadKernelError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{_where(nb, path, started)}: {reason}") from None


def _where(nb, path, started):
    """Name the cell at which an execution stopped."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    number = sum(cell.cell_type == "code" for cell in started)
    first = next(iter(code[number - 1].source.splitlines()), "")
    return f"{path.stem}: code cell {number} ({first!r})"


def check(root, paths, whole, expected=COURSE):
    """Return one line for everything that is wrong with the notebooks."""
    found = []
    if whole:
        found += [f"{s}: notebook is missing" for s in expected if not _there(root, s)]
        texts = sorted((root / "notebooks" / "text").glob("[0-9][0-9]_*.py"))
        lonely = [t for t in texts if not _there(root, t.stem)]
        found += [f"{t.stem}: text without a notebook: run from-text" for t in lonely]
    notebooks = []
    for path in paths:
        try:
            nb = read(path)
        except ValueError as error:
            found.append(str(error))
            continue
        notebooks.append(nb)
        found += nb_check.notebook(nb, path, root)
        found += _check_form(path, nb, root)  # last: it changes nb
    if whole:
        found += nb_check.exceptions_to_nbval(notebooks)
        found += export.problems(root)
    else:
        found += [line for line in map(_exported(root), paths) if line]
    return found


def _there(root, stem):
    """Say whether a notebook of the course exists."""
    return (root / "notebooks" / f"{stem}.ipynb").is_file()


def _exported(root):
    """Return the function that compares one notebook with its module."""

    def line(path):
        try:
            return export.compare(root, path)
        except export.ExportError as error:
            return str(error)

    return line


def _check_form(path, nb, root):
    """Check the pair, the stamped cells and the normal form."""
    if not text_path(path).is_file():
        return [f"{path.stem}: has no text half: run from-nb"]
    if not in_step(path, nb):
        return [f"{path.stem}: text and notebook differ: run from-text or from-nb"]
    data = bytes_of(nb)
    stamp_cells(nb, root, path.stem)
    clean(nb, path.stem)
    if not in_step(path, nb):
        return [f"{path.stem}: badge or setup cell differs: run from-nb"]
    if bytes_of(nb) != data or path.read_bytes() != data:
        return [f"{path.stem}: notebook is not in normal form: run from-nb"]
    return []


def select(root, numbers, suffix=".ipynb"):
    """Return the paths of the notebooks named by number or by stem; all if none."""
    folder = root / "notebooks"
    where = folder / "text" if suffix == ".py" else folder
    paths = sorted(where.glob(f"[0-9][0-9]_*{suffix}"))
    wanted = [n.zfill(2) if n.isdigit() else Path(n).stem for n in numbers]
    for name in wanted:
        if not any(p.stem.startswith(name) for p in paths):
            raise ValueError(f"no notebook '{name}' with {suffix} in {folder.name}/")
    paths = [p for p in paths if not wanted or p.stem.startswith(tuple(wanted))]
    return [folder / f"{p.stem}.ipynb" for p in paths]


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = ["from-text", "from-nb", "format", "run", "check", "stamp"]
    parser.add_argument("command", choices=commands)
    parser.add_argument("which", nargs="*", help="numbers, or the address for stamp")
    parser.add_argument("--timeout", type=int, default=900, help="seconds per cell")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    root = options.root.resolve()
    try:
        if options.command == "stamp":
            print(f"stamped {stamp(root, *options.which[:1])}")
            return 0
        from_py = options.command == "from-text"
        paths = select(root, options.which, ".py" if from_py else ".ipynb")
        if options.command == "check":
            found = check(root, paths, whole=not options.which)
            print("\n".join(found or [f"{len(paths)} notebooks in order"]))
            return 1 if found else 0
    except ValueError as error:
        print(error)
        return 1
    return _each(options.command, paths, root, options.timeout)


def _each(command, paths, root, timeout):
    """Apply a command to each notebook; go on after a failure, report all."""
    actions = {"from-text": from_text, "from-nb": from_nb, "format": format_cells}
    failed = 0
    for path in paths:
        try:
            if command == "run":
                run(path, root, timeout)
            else:
                actions[command](path, root)
            print(f"{command} {path.stem}", flush=True)
        except (ValueError, OSError) as error:  # ExportError is a ValueError
            failed += 1
            print(error, file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
