"""Table of an audit."""

from pathlib import Path

from rich.table import Table

from simulations.display.tables import new_table
from simulations.experiments.audit.schema import Attack, Audit, Bits, Guess


def audit_tables(audit: Audit) -> list[Table]:
    """Tabulate attacks by score, attacks that name an answer, and what is remembered of canaries."""
    table = new_table(title=f"{audit.name}: what {Path(audit.run).name} gives away ({audit.method}, {audit.task})")
    for title in ("was it trained on?", "AUC", "95 % CI", "found", "in", "out"):
        table.add_column(title, justify="left" if title.endswith("?") else "right")
    rows: list[tuple[str, Attack | None]] = [
        ("shared part, an item", audit.shared_items),
        ("shared part, a user", audit.shared_users),
        (f"a user, {audit.shadow_runs} shadow runs", audit.shadows),
        ("served model, an item", audit.served_items),
    ]
    for title, attack in rows:
        if attack:
            low, high = attack.interval
            tail = "–"
            if attack.tpr_at_1_percent is not None and attack.tpr_interval:
                tail = f"{attack.tpr_at_1_percent:.1%} ({attack.tpr_interval[0]:.0%} to {attack.tpr_interval[1]:.0%})"
            counts = (f"{attack.members:,}", f"{attack.non_members:,}")
            table.add_row(title, f"{attack.auc:.3f}", f"{low:.3f} to {high:.3f}", tail, *counts)
    at_most = (
        "no bound is promised" if audit.epsilon_at_most is None else f"promised: at most {audit.epsilon_at_most:.3g}"
    )
    table.caption = (
        "AUC: chance that what was trained on scores above what was not, 0.5 by guessing; intervals over users; found: "
        "at 1 % false alarms, –: fewer than 100 out; in, out: items or users, or their turns in shadow runs; "
        f"the attack on users suggests ε of at least {audit.epsilon_suggested:.2f} ({at_most})"
    )
    tables = [table]
    if audit.linked:
        tables.append(_guesses(audit))
    if audit.exposures:
        tables.append(_exposures(audit))
    return tables


def _guesses(audit: Audit) -> Table:
    table = new_table(title="what one update says of its sender")
    for title in ("", "right", "95 % CI", "by chance", "users"):
        table.add_column(title, justify="right" if title else "left")
    rows: list[tuple[str, Guess | None]] = [
        ("its usual answer", audit.usual_answer),
        ("which of two things it prefers", audit.taste),
        ("who it is, from an earlier update", audit.linked),
    ]
    for title, guess in rows:
        if guess:
            low, high = guess.interval
            cells = (f"{guess.accuracy:.1%}", f"{low:.1%} to {high:.1%}", f"{guess.by_chance:.1%}", str(guess.users))
            table.add_row(title, *cells)
    return table


def _exposures(audit: Audit) -> Table:
    table = new_table(title="made-up items, planted in histories: how well they are remembered, in bits")
    for title in ("planted", "shared part", "95 % CI", "users", "served model", "95 % CI", "users"):
        table.add_column(title, justify="left" if title == "planted" else "right")
    for row in audit.exposures:
        times = {0: "left out", 1: "once"}.get(row.repeats, f"{row.repeats} times")
        table.add_row(times, *_bits(row.shared), *_bits(row.served))
    proved = "proves nothing of ε"
    if audit.epsilon_at_least:
        proved = f"proves an ε of at least {audit.epsilon_at_least:.2f}"
    at_most = "" if audit.epsilon_at_most is None else f" (promised: at most {audit.epsilon_at_most:.3g})"
    table.caption = (
        "8: always before 255 items like it; 1.42 on average if nothing is remembered; –: fewer than five users; "
        f"guessing which canaries were left out of stage 1 {proved}{at_most}"
    )
    return table


def _bits(bits: Bits | None) -> tuple[str, str, str]:
    if bits is None:
        return "–", "–", "–"
    interval = "–" if bits.interval is None else f"{bits.interval[0]:.2f} to {bits.interval[1]:.2f}"
    return f"{bits.mean:.2f}", interval, str(bits.users)
