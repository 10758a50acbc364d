from pathlib import Path

from quarterdeck_controller.optimize.report.pictures import pictures
from quarterdeck_controller.optimize.report.save import write_report
from quarterdeck_controller.optimize.search.story import SensitiveNode
from tests.support.stories import evaluation, story, tried

PNG = b"\x89PNG"


def test_a_class_gets_its_pictures_beside_its_variant(tmp_path: Path) -> None:
    write_report([(evaluation(), story())], tmp_path)

    names = sorted(path.name for path in (tmp_path / "gateway-x86").iterdir())
    assert names == ["front.png", "sensitivity.png", "time.png"]
    assert (tmp_path / "gateway-x86" / "front.png").read_bytes()[:4] == PNG


def test_pictures_are_the_same_bytes_again() -> None:
    assert pictures(evaluation(), story()) == pictures(evaluation(), story())


def test_what_has_no_figures_gets_no_picture() -> None:
    bare = story(sensitivity=(), float_time=(), tried=())

    assert set(pictures(evaluation(), bare)) == {"front.png"}


def test_names_that_look_like_formulas_or_have_strange_letters_are_drawn() -> None:
    strange = "$\\frac{$ \u4e2d\u6587 \x00" + "x" * 500
    node = SensitiveNode(
        name=strange, operator="Conv", sqnr_db=-3.0, bytes=1, treatment="static"
    )

    drawn = pictures(
        evaluation(),
        story(metric=strange, tried=(tried(strange, taken=True),), sensitivity=(node,)),
    )

    assert all(data.startswith(PNG) for data in drawn.values())
