"""What others say is shown, and does nothing else."""

import io
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_agent.logs import set_up_logs
from quarterdeck_controller.cli import output
from quarterdeck_controller.cli.serve_ import OneLine
from quarterdeck_shared.plain import plain

HOSTILE = "full\nevent=device_enrolled device=x\r\x1b[2J\x9b31m\u202e"
SPELLED = r"full\nevent=device_enrolled device=x\r\x1b[2J\x9b31m\u202e"


@given(st.text())
def test_whatever_is_said_can_be_printed(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)


def test_text_that_can_be_printed_is_left_as_it_is() -> None:
    assert plain(r"Größe 3 µm, C:\n") == r"Größe 3 µm, C:\n"


def test_what_is_spelled_out_can_be_read() -> None:
    assert plain(HOSTILE) == SPELLED
    assert plain("a\nb\x07", keep="\n") == "a\nb" + r"\x07"


def test_nothing_that_is_printed_steers_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.out.print(HOSTILE, markup=False)
    output.print_table(["detail", "next"], [[HOSTILE, "seen"]], title=HOSTILE)

    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "seen" in line]
    assert shown.replace("\n", "").isprintable()
    assert row.split("  ") == [SPELLED, "seen"]


def test_a_message_is_one_line_of_the_controllers_log() -> None:
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.addFilter(OneLine())
    told = logging.LogRecord("a", logging.INFO, "a", 1, "refused %s", (HOSTILE,), None)

    handler.handle(told)

    assert shown.getvalue() == f"refused {SPELLED}\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_message_is_one_line_of_the_agents_log(
    monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    set_up_logs(as_json=as_json, verbose=False)

    logging.getLogger("quarterdeck_agent.test").warning("dropped: %s", HOSTILE)

    assert shown.getvalue().endswith("\n")
    assert shown.getvalue()[:-1].isprintable()
