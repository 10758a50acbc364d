from io import StringIO

import pytest
from rich.console import Console

from quarterdeck_controller.cli.watching import Board
from quarterdeck_controller.optimize.optimizer import Progress
from tests.support.fleet import HandClock

CLASSES = ("board-arm64", "gateway-x86")
LONG = "nothing meets the budget, but top1 84.1 % is 5.9 points below float's; " * 3


def drawn(board: Board, width: int = 80) -> list[str]:
    file = StringIO()
    Console(file=file, width=width).print(board)
    return file.getvalue().splitlines()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def board(clock: HandClock) -> Board:
    return Board(CLASSES, clock)


def test_before_any_class_has_begun_there_is_one_line(board: Board) -> None:
    board.hear(Progress("", "prepare", "proving that the graph is the same", 1))

    (line,) = drawn(board)
    assert "proving that the graph is the same" in line


def test_every_class_has_one_line_within_the_width(board: Board) -> None:
    for name in CLASSES:
        board.hear(Progress(name, "static", LONG, 3))

    for width in (30, 80, 200):
        lines = drawn(board, width)
        assert len(lines) == 2
        assert max(map(len, lines)) <= width


def test_a_line_tells_how_long_it_has_taken(board: Board, clock: HandClock) -> None:
    board.hear(Progress("gateway-x86", "static", "integers throughout", 3))
    clock.move(83)

    assert "1:23" in drawn(board)[1]


def test_a_class_that_is_done_keeps_its_time_and_says_what_it_got(
    board: Board, clock: HandClock
) -> None:
    board.hear(Progress("board-arm64", "done", "refused: no recipe", 5))
    board.hear(Progress("gateway-x86", "done", "accepted: static-u8s8", 12))
    clock.move(600)

    refused, accepted = drawn(board)
    assert "✗" in refused
    assert "✓" in accepted
    assert "0:12" in accepted


def test_the_best_so_far_stays_while_the_search_goes_on(board: Board) -> None:
    board.hear(Progress("gateway-x86", "best", "weights-s8", 3))
    board.hear(Progress("gateway-x86", "static", "integers throughout", 3))

    assert "best weights-s8; integers throughout" in drawn(board, 120)[1]
    assert "best" not in drawn(board, 80)[1]
