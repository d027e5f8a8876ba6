"""Parameters and bytes: the paper's printed figures from the shipped presets, and one config computed by hand."""

import pytest

from fl_clients.backbone.load import read_shape
from simulations.inspection.parameters import average_reductions, paper_parity, parameter_rows, parameter_table
from simulations.run.preflight import build_method
from tests.conftest import tiny_config

# Tables 2 and 3 as printed: percent of the model and reduction against OPPU, stage 1 and stage 2.
PRINTED = {
    "movie_tagging": ("0.0078", "0.0010", "91.67", "98.44"),
    "news_categorization": ("0.0058", "0.0117", "93.75", "81.25"),
    "product_rating": ("0.0117", "0.0015", "87.50", "97.66"),
    "news_headline": ("0.0117", "0.0015", "87.50", "97.66"),
    "scholarly_title": ("0.0039", "0.0010", "95.83", "98.44"),
    "tweet_paraphrase": ("0.0078", "0.0039", "91.67", "93.75"),
}


def test_presets_reproduce_the_papers_tables_to_the_printed_digit() -> None:
    rows = paper_parity()
    ours = {
        row.task: tuple([f"{value:.4f}" for value in row.percent] + [f"{value:.2f}" for value in row.reduction])
        for row in rows
    }
    assert ours == PRINTED
    # LoRA of rank 8 on q, k, v: 32 blocks × 3 matrices × 8·(4096 + 4096); stage 2 has two thirds of it.
    assert {row.theirs for row in rows} == {(6_291_456, 4_194_304)}
    mean, pooled = average_reductions(rows)
    assert (round(mean, 2), round(pooled, 2)) == (92.92, 92.60)


@pytest.mark.integration
def test_parameters_of_a_config_computed_by_hand() -> None:
    # tiny: d = 16; sites 1 and 2; r = 4 and 2: 2·(2·4·16 + 4) = 264 and 2·(2·2·16 + 2) = 132.
    config = tiny_config()
    shape = read_shape("tiny", usable=False)
    rows = parameter_rows(build_method(config, shape), shape)
    assert [(row["parameters"], row["bytes"]) for row in rows] == [(264, 1056), (132, 528)]
    joint = parameter_rows(build_method(tiny_config("joint_private_init=true"), shape), shape)
    assert [row["parameters"] for row in joint] == [396, 264, 132, 132]
    cells = list(zip(*(column.cells for column in parameter_table(rows, "by hand").columns), strict=True))
    assert [(row[1], row[3]) for row in cells] == [("264", "1.06 kB"), ("132", "528 B")]
