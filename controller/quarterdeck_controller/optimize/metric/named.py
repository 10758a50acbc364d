"""What the name of a metric says before anything is judged."""

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from quarterdeck_controller.optimize.metric.choose import BUILT_IN


def labels_are_groups(given: str) -> bool:
    """Return whether samples of one label must stay together; see ``About``."""
    about = BUILT_IN.get(given.partition(":")[0])
    return about is not None and about[0].labels_are_groups


def digest_of_files(given: str) -> str:
    """Return the sha256 of the files that a metric names, empty when it names none.

    A metric is told by its name and by what is in its files: a function of one's own, a
    set of characters.
    """
    words = re.split(r"[:,=]", given)
    files = [Path(word) for word in words if word and Path(word).is_file()]
    module = words[0]
    if not files and module and module not in BUILT_IN:
        files = _source(module)
    if not files:
        return ""
    state = hashlib.sha256()
    for file in files:
        state.update(file.read_bytes())
    return state.hexdigest()


def _source(module: str) -> list[Path]:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return []
    return [Path(spec.origin)] if spec and spec.origin else []
