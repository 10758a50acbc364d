"""Which releases a device may go back to: as little as a fall-back needs."""

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_controller.release.downgrade import (
    Listed,
    Permission,
    after_release,
)

MODELS = ("a", "b")


@st.composite
def roles(draw: st.DrawFn) -> tuple[Listed, ...]:
    count = draw(st.integers(min_value=0, max_value=8))
    return tuple(
        Listed(
            path=f"classes/cam/{number}.idx",
            artifact=f"artifact-{number}",
            model=draw(st.sampled_from(MODELS)),
            release=number + 1,
            downgrade=draw(st.sampled_from(("", "because"))),
        )
        for number in range(count)
    )


HELD = st.frozensets(st.integers(0, 8).map(lambda number: f"artifact-{number}"))


def permitted(listed: tuple[Listed, ...], changed: tuple[Permission, ...]) -> set[str]:
    """Return the paths that a device may go back to afterwards."""
    now = {it.path: it.downgrade for it in listed}
    now |= {it.path: it.downgrade for it in changed}
    return {path for path, why in now.items() if why}


@given(roles(), HELD)
def test_exactly_what_is_held_and_the_newest_before_may_be_gone_back_to(
    listed: tuple[Listed, ...], held: frozenset[str]
) -> None:
    ours = [it for it in listed if it.model == "a"]
    newest = max(ours, key=lambda it: it.release, default=None)

    after = permitted(listed, after_release(listed, "a", "a@9", held))

    expected = {it.path for it in ours if it.artifact in held or it is newest}
    assert after & {it.path for it in ours} == expected


@given(roles(), HELD)
def test_another_models_permissions_are_left_alone(
    listed: tuple[Listed, ...], held: frozenset[str]
) -> None:
    others = {it.path for it in listed if it.model == "b"}

    changed = after_release(listed, "a", "a@9", held)

    assert not others & {it.path for it in changed}


@given(roles(), HELD)
def test_nothing_is_signed_anew_that_stands_as_it_should(
    listed: tuple[Listed, ...], held: frozenset[str]
) -> None:
    changed = {it.path: it for it in after_release(listed, "a", "a@9", held)}

    for it in listed:
        if it.path in changed:
            assert bool(it.downgrade) != bool(changed[it.path].downgrade)
