"""Colours and markers of methods."""

from simulations.display.style import colour, styles, symbol


def test_variants_in_one_figure_look_different() -> None:
    # By their names alone, the last two have the same colour and marker.
    names = ["private-perfit", "private-oppu", "private-perfit-7k", "private-oppu-rank1"]
    assert (colour(names[2]), symbol(names[2])) == (colour(names[3]), symbol(names[3]))
    looks = styles(names)
    assert list(looks) == names
    assert len({look.colour for look in looks.values()}) == 4
    assert looks == styles(names)


def test_a_shipped_method_looks_the_same_in_every_figure() -> None:
    looks = styles(["mine", "yours", "oppu", "perfit"])
    assert (looks["oppu"].colour, looks["oppu"].symbol) == (colour("oppu"), symbol("oppu"))
    assert looks["mine"].colour not in (colour("oppu"), colour("perfit"))


def test_there_are_enough_styles_for_forty_variants() -> None:
    assert len({*styles(f"variant-{number}" for number in range(40)).values()}) == 40
