"""Magika's file type model on the files of this machine."""

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tests.bench.quantization.fetch import UnavailableError, member
from tests.bench.quantization.task import LABELS, Array, Made, Recipe

FOLDER = "magika/models/standard_v3_3"
ROOTS = (Path(sys.base_prefix), Path("/usr"), Path("/etc"))
MOST_OF_A_TYPE, CALIBRATION, LEAST = 36, 128, 300
HALF, BLOCK, PADDING = 1024, 4096, 256
SMALLEST, LARGEST = 64, 64 << 20
EXTENSIONS = MappingProxyType(
    {
        extension: name
        for name, extensions in {
            "bmp": "bmp",
            "bzip": "bz2",
            "c": "c h",
            "cmake": "cmake",
            "coff": "obj",
            "cpp": "cc cpp cxx hpp",
            "cs": "cs",
            "css": "css",
            "csv": "csv",
            "deb": "deb",
            "diff": "diff patch",
            "elf": "o so",
            "eml": "eml",
            "gif": "gif",
            "go": "go",
            "gzip": "gz tgz",
            "html": "html htm",
            "ico": "ico",
            "ini": "ini",
            "jar": "jar",
            "java": "java",
            "javabytecode": "class",
            "javascript": "js mjs",
            "jpeg": "jpg jpeg",
            "json": "json",
            "lua": "lua",
            "m4": "m4",
            "markdown": "md",
            "mp3": "mp3",
            "npy": "npy",
            "npz": "npz",
            "otf": "otf",
            "pdf": "pdf",
            "pebin": "exe dll",
            "pem": "pem",
            "perl": "pl pm",
            "php": "php",
            "pickle": "pickle pkl",
            "png": "png",
            "po": "po",
            "postscript": "ps eps",
            "python": "py",
            "pythonbytecode": "pyc",
            "rst": "rst",
            "ruby": "rb",
            "rust": "rs",
            "shell": "sh bash",
            "sql": "sql",
            "sqlite": "sqlite db",
            "svg": "svg",
            "tar": "tar",
            "tcl": "tcl",
            "tiff": "tif tiff",
            "toml": "toml",
            "ttf": "ttf",
            "txt": "txt",
            "typescript": "ts",
            "wasm": "wasm",
            "wav": "wav",
            "webp": "webp",
            "woff2": "woff2",
            "xml": "xml",
            "xz": "xz",
            "yaml": "yaml yml",
            "zip": "zip whl",
        }.items()
        for extension in extensions.split()
    }
)
"""What a file is, as Magika calls it, by its extension."""


def make() -> Made:
    """Return the model with files of this machine; the label is by the extension."""
    model = member("magika", f"{FOLDER}/model.onnx")
    held = json.loads(member("magika", f"{FOLDER}/config.min.json"))
    names = held["target_labels_space"]
    found = [
        (features(path), names.index(kind)) for kind, path in _chosen() if kind in names
    ]
    if len(found) < CALIBRATION + LEAST:
        raise UnavailableError(
            f"this machine has but {len(found)} files of known types"
        )
    order = np.random.default_rng(5).permutation(len(found))
    x = np.stack([found[row][0] for row in order])
    labels = np.array([found[row][1] for row in order], np.int64)
    judged = {"bytes": x[CALIBRATION:], LABELS: labels[CALIBRATION:]}
    return Made(model, {"bytes": x[:CALIBRATION]}, judged)


def features(path: Path) -> Array:
    """Return [2048] of what Magika looks at: stripped beginning and end of a file."""
    with path.open("rb") as file:
        start = file.read(BLOCK).lstrip()[:HALF]
        file.seek(max(0, path.stat().st_size - BLOCK))
        end = file.read(BLOCK).rstrip()[-HALF:]
    found = np.full(2 * HALF, PADDING, np.int32)
    found[: len(start)] = np.frombuffer(start, np.uint8)
    found[2 * HALF - len(end) :] = np.frombuffer(end, np.uint8)
    return found


def _chosen() -> Iterator[tuple[str, Path]]:
    """Yield up to so many different files of each type, spread over the machine."""
    by_type: dict[str, list[Path]] = defaultdict(list)
    for path in _files():
        kind = EXTENSIONS.get(path.suffix[1:].lower())
        if kind is not None:
            by_type[kind].append(path)
    for kind in sorted(by_type):
        seen: set[bytes] = set()
        for path in sorted(by_type[kind], key=_spread):
            digest = _digest(path)
            if digest is not None and digest not in seen:
                seen.add(digest)
                yield kind, path
            if len(seen) == MOST_OF_A_TYPE:
                break


def _files() -> Iterator[Path]:
    for root in ROOTS:
        for folder, _, names in os.walk(root):
            yield from (Path(folder) / name for name in names if "." in name)


def _spread(path: Path) -> bytes:
    return hashlib.sha256(str(path).encode(errors="replace")).digest()


def _digest(path: Path) -> bytes | None:
    """Return the digest of what is looked at; None when it is no file to look at."""
    try:
        if path.is_symlink() or not SMALLEST <= path.stat().st_size <= LARGEST:
            return None
        return hashlib.sha256(features(path).tobytes()).digest()
    except OSError:
        return None


RECIPE = Recipe(
    "magika",
    1,
    "top1",
    "class",
    "Magika standard_v3_3 (Apache-2.0); files of this machine labelled by extension: "
    "int32 input, one-hot by Equal and Cast, decomposed normalization, Tanh",
    make,
)
