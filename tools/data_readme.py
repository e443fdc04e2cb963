"""Write the list of files in data/README.md: size, content, sha256.

    python tools/data_readme.py            rewrite the table
    python tools/data_readme.py --check    write nothing; fail if something is wrong

Each file in data/ must be described: its name, or a pattern like `curves/*.csv`, stands
in a heading of data/README.md, in backticks. Origin, licence and command are written
there by hand; what can be computed is computed here.
"""

import argparse
import fnmatch
import hashlib
import json
import re
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- begin:files -->\n).*?(<!-- end:files -->)", re.DOTALL)
DTYPES = {"F16": "float16", "F32": "float32", "I64": "int64"}


def files(root):
    """Return every data file, sorted; README.md itself and half-written files aside."""
    found = (root / "data").rglob("*")
    kept = [p for p in found if p.is_file() and p.suffix not in (".md", ".partial")]
    hidden = [p for p in kept if p.name.startswith(".")]
    return sorted(p for p in kept if p not in hidden)


def text_of(root):
    """Return the text of data/README.md."""
    return (root / "data" / "README.md").read_text(encoding="utf-8")


def undescribed(root):
    """Return the files in data/ that no heading of data/README.md names."""
    heads = re.findall(r"^##+ (.*)$", text_of(root), re.MULTILINE)
    patterns = [name for head in heads for name in re.findall(r"`([^`]+)`", head)]
    names = [path.relative_to(root / "data").as_posix() for path in files(root)]
    return [n for n in names if not any(fnmatch.fnmatch(n, p) for p in patterns)]


def content(path):
    """Say in a few words what a file holds."""
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as file:
            arrays = [(key, file[key]) for key in file.files]
        shapes = [f"{k} {list(a.shape)} {a.dtype}" for k, a in arrays if a.ndim > 1]
        return ", ".join(shapes)
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        sizes = [1] * len(header)
        for i, tensor in enumerate(header.values()):
            for side in tensor["shape"]:
                sizes[i] *= side
        kinds = sorted({DTYPES.get(t["dtype"], t["dtype"]) for t in header.values()})
        return f"{len(header)} tensors, {sum(sizes):,} numbers, {', '.join(kinds)}"
    if path.suffix == ".csv":
        lines = path.read_text(encoding="utf-8").splitlines()
        return f"{len(lines) - 1} rows of {len(lines[0].split(','))} columns"
    return ""


def table(root):
    """Return the markdown table of all files, and their digests."""
    lines = ["| file | bytes | holds |", "|---|---:|---|"]
    digests, total = [], 0
    for path in files(root):
        name, size = path.relative_to(root / "data").as_posix(), path.stat().st_size
        lines.append(f"| `{name}` | {size:,} | {content(path)} |")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        digests.append(f"{digest}  {name}")
        total += size
    lines += [f"| all | {total:,} | |", "", "SHA-256, in the form of `sha256sum`:", ""]
    return "\n".join([*lines, "```text", *digests, "```"]) + "\n"


def main(argv=None):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(argv)
    root, text = options.root, text_of(options.root)
    new = MARKED.sub(lambda m: m.group(1) + table(root) + m.group(2), text)
    found = [f"data/{name} is not described" for name in undescribed(root)]
    if options.check and new != text:
        old = set(text.splitlines())
        rows = [line for line in new.splitlines() if line not in old]
        names = [row.split("  ")[1] for row in rows if "  " in row] or ["files left"]
        found.append(f"the table is out of date ({', '.join(names)}): make readme")
    elif new != text:
        (root / "data" / "README.md").write_bytes(new.encode())
        print("data/README.md: table written")
    for line in found:
        print(f"data/README.md: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
