"""Passphrases at a real terminal: asked for twice, never shown."""

import os
import pty
import select
import sys
from pathlib import Path

import pytest

from quarterdeck_controller.repository.keyfile import KeyFile
from quarterdeck_shared.codes import Code
from tests.support.ceremony import refuses

PATIENCE_S = 60.0


def typed(answers: dict[str, str], *words: str) -> tuple[int, str]:
    """Run ``quarterdeck`` at a terminal; type each answer when its question comes."""
    pid, terminal = pty.fork()
    if pid == 0:  # the child: its terminal is the other end
        for name in ("QUARTERDECK_PASSPHRASE", "QUARTERDECK_PASSPHRASE_FILE"):
            os.environ.pop(name, None)
        code = "from quarterdeck_controller.cli import main; main()"
        os.execv(sys.executable, [sys.executable, "-c", code, *words])
    seen, waiting = "", dict(answers)
    while select.select([terminal], [], [], PATIENCE_S)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the child has gone
            break
        if not piece:
            break
        seen += piece.decode()
        question = next((it for it in waiting if it in seen), None)
        if question is not None:
            os.write(terminal, f"{waiting.pop(question)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


@pytest.mark.parametrize("again", ["correct horse", "correct hose"])
def test_a_new_passphrase_is_typed_twice_and_never_shown(
    tmp_path: Path, again: str
) -> None:
    answers = {
        "New passphrase of root-1": "correct horse",
        "The same again": again,
    }

    code, seen = typed(answers, "key", "create", "root-1", "--out", str(tmp_path / "k"))

    assert "hors" not in seen
    if again == "correct horse":
        assert code == 0, seen
        key = KeyFile(tmp_path / "k" / "root-1.pem")
        assert key.signer(lambda _: "correct horse").public_key.keyid == key.keyid()
        assert refuses(lambda: key.signer(lambda _: "x")).code is Code.KEY_LOCKED
    else:
        assert code == 1
        assert "the two passphrases differ" in seen
        assert not (tmp_path / "k").exists()
