"""Tables of an analysis."""

from rich.table import Table

from simulations.display.tables import new_table
from simulations.experiments.analysis.schema import Analysis, SiteAnalysis, Together


def analysis_tables(analysis: Analysis) -> list[Table]:
    """Tabulate sites, and what a trained run has to do with them."""
    table = new_table(
        title=f"{analysis.name}: δ-vectors of {analysis.users} users, {analysis.task}, {analysis.backbone}"
    )
    shares = list(analysis.sites[0].ranks)
    for title in ("block", *shares, "mean's share", "1st", "2nd", "words, 1st", "cosine"):
        table.add_column(title, justify="right")
    for each in analysis.sites:
        pairs = zip(each.coordinates_mean[:2], each.coordinates_deviation[:2], strict=True)
        spread = [f"{mean:+.3g} ± {deviation:.2g}" for mean, deviation in pairs]
        spread += ["–"] * (2 - len(spread))
        ranks = [str(each.ranks[share]) for share in shares]
        table.add_row(str(each.site), *ranks, f"{each.mean_share:.2f}", *spread, *_control(each))
    left = f"; {analysis.left_out} users without two items are left out" if analysis.left_out else ""
    table.caption = (
        "80% and so on: directions that hold this share of the variance, not centred; mean's share: ‖mean δ‖² / mean "
        "‖δ‖²; 1st, 2nd: coordinates, mean ± standard deviation over users; words, 1st: mean |1st coordinate| with "
        f"made-up words over δ's; cosine: of the two means{left}"
    )
    further = [_trained(analysis)] if analysis.trained else []
    return [table, *further, *([_together(analysis.together)] if analysis.together else [])]


def _control(site: SiteAnalysis) -> tuple[str, str]:
    return f"{site.control[0]:.2f}", f"{site.control_cosine:.2f}"


def _together(compared: Together) -> Table:
    table = new_table(title=f"collective directions of several tasks, block {compared.site}")
    table.add_column("analysis")
    for name in compared.names:
        table.add_column(name, justify="right")
    for name, cosines, control in zip(compared.names, compared.cosines, compared.control, strict=True):
        table.add_row(name, *(f"{cosine:.2f} ({other:.2f})" for cosine, other in zip(cosines, control, strict=True)))
    table.caption = "cosine of the mean δ-vectors; in brackets, with made-up words"
    return table


def _trained(analysis: Analysis) -> Table:
    table = new_table(title="the collective direction and the trained collective shift")
    for title in ("block", "rank", "share in span of R", "by chance"):
        table.add_column(title, justify="right")
    for each in analysis.trained:
        table.add_row(str(each.site), str(each.rank), f"{each.share_in_span:.3f}", f"{each.by_chance:.3f}")
    table.caption = "of ‖mean δ‖², inside the rows of R⁽¹⁾; by chance: r/d"
    if analysis.taste:
        taste = analysis.taste
        table.caption += (
            f"; users who answer alike and their b⁽²⁾: correlation of distances {taste.correlation:+.2f} "
            f"(p = {taste.p_value:.3f}, {taste.users} users)"
        )
    return table
