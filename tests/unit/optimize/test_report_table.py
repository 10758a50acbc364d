from io import StringIO

import pytest
from rich.console import Console

from quarterdeck_controller.optimize.data.split import APART, TOGETHER
from quarterdeck_controller.optimize.report.table import report
from quarterdeck_controller.optimize.report.wording import left_out, size
from quarterdeck_controller.optimize.search.story import Said
from tests.support.stories import evaluation, story, tried


def printed(width: int, *, terminal: bool = False) -> str:
    file = StringIO()
    console = Console(
        file=file, width=width, soft_wrap=True, highlight=False, force_terminal=terminal
    )
    console.print(report([(evaluation(), story())]))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_report_fits_the_width_and_cuts_nothing(width: int) -> None:
    lines = printed(width).splitlines()

    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_eighty_columns_hold_what_decides() -> None:
    heading = printed(80).splitlines()[1].split()

    assert heading[:6] == ["recipe", "size", "score", "lost", "agrees", "time"]


def test_a_wide_terminal_shows_what_runs_too() -> None:
    heading = printed(200).splitlines()[1]

    assert all(word in heading for word in ("p50 ms", "MiB", "integer", "q/dq"))


def test_a_long_recipe_is_broken_at_hyphens_and_stays_whole() -> None:
    column = "".join(line[:30].strip() for line in printed(80).splitlines())

    assert "static-u8s8-mse-elementwise-qoperator-equalize-bias-round" in column


def test_every_standing_is_told() -> None:
    said = printed(80)

    assert all(word in said for word in ("taken", "front", "fits", "over", "failed"))
    assert "no kernel for QLinearPool" in said


def test_only_the_closest_of_many_that_are_over_are_explained() -> None:
    file = StringIO()
    many = tuple(
        tried(f"static-{n}", drop_points=10.0 - n, misses=(f"missed by {n}", "size"))
        for n in range(9)
    )

    Console(file=file, width=80).print(report([(evaluation(), story(tried=many))]))

    said = file.getvalue()
    assert "over  static-8: missed by 8; and 1 more" in said
    assert "over  6 more" in said
    assert "missed by 0" not in said


def test_what_was_left_out_is_told_once_with_its_reason() -> None:
    assert left_out(story()) == ((("repair", "train"), "the budget is met"),)
    assert "left out  repair, train (the budget is met)" in printed(80)


def test_a_rung_that_the_time_did_not_allow_is_left_out_though_it_was_climbed() -> None:
    said = (
        Said(rung="static", sentence="integers", seconds=3),
        Said(rung="static", sentence="left out, the time is spent: more", seconds=0),
    )

    assert left_out(story(said=said)) == ((("static",), "the time is spent: more"),)


def test_a_rung_that_ended_by_itself_is_told_where_there_is_room() -> None:
    said = (
        Said(rung="floor", sentence="the safe floor", seconds=3),
        Said(rung="repair", sentence="levelled", seconds=3),
        Said(rung="floor", sentence="ended: tried", seconds=0),
        Said(rung="repair", sentence="ended: integers were tuned", seconds=0),
    )

    assert left_out(story(said=said)) == ()
    assert left_out(story(said=said), climbed_too=True) == (
        (("repair",), "integers were tuned"),
    )


def test_colours_are_for_terminals_only() -> None:
    assert "\x1b[" in printed(80, terminal=True)
    assert "\x1b[" not in printed(80)


def test_what_comes_from_a_model_cannot_command_the_terminal() -> None:
    file = StringIO()
    hostile = story(tried=(tried(failure="node \x1b]0;owned\x07\n\x1b[2J"),))

    console = Console(file=file, width=80, force_terminal=False)
    console.print(report([(evaluation(reason="\x1b[2J"), hostile)]))

    assert "\x1b" not in file.getvalue()
    assert "\x07" not in file.getvalue()


def test_samples_that_chose_and_judged_are_not_called_unseen() -> None:
    note = f"there are 9 samples: {TOGETHER}, so the score is kinder"
    file = StringIO()

    Console(file=file, width=200).print(
        report([(evaluation(notes=(note,)), story())]), soft_wrap=True
    )

    assert " of the same samples: " in file.getvalue()
    assert " unseen samples: " not in file.getvalue()
    assert f"note  {note}" in file.getvalue()


def test_notes_that_warn_are_told_and_only_the_first_of_many() -> None:
    notes = (f"300 samples choose the recipe and 300 {APART}", *"abcdef")
    file = StringIO()

    Console(file=file, width=80).print(report([(evaluation(notes=notes), story())]))

    assert "note  a" in file.getvalue()
    assert "note  2 more on the page" in file.getvalue()
    assert APART not in file.getvalue()


def test_a_class_without_any_variant_says_why() -> None:
    file = StringIO()
    nothing = evaluation(
        decision="refused",
        reason="no recipe gave a model that runs",
        recipe=None,
        variant=None,
        agreement=None,
        drop_points=None,
        drop_ci95=None,
        golden_measured=(),
    )

    Console(file=file, width=80).print(report([(nothing, story(tried=()))]))

    assert "refused  no recipe gave a model that runs" in file.getvalue()


@pytest.mark.parametrize(
    ("count", "told"),
    [(12, "12 bytes"), (978_472, "978 kB"), (999_900, "1 MB"), (2_700_000, "2.7 MB")],
)
def test_sizes_show_three_digits(count: int, told: str) -> None:
    assert size(count) == told
