"""Real documents, real teacher, real judgements: minutes on two cores. Run with ``pytest -m slow``."""

import pandas as pd
import pytest

from pyterrier_distill.demo.distil import demo

pytestmark = pytest.mark.slow


def test_a_two_layer_student_comes_near_its_teacher_from_documents_alone(irds, minilm, tmp_path):
    table = demo("irds:vaswani", queries=20_000, out=tmp_path, teacher=minilm, seed=1).set_index("name")
    assert table["nDCG@10"]["teacher"] == pytest.approx(0.434, abs=0.005)  # the figure of other implementations
    assert table["share"]["student before"] < 0.7
    assert table["share"]["student"] > 0.88
    pd.testing.assert_series_equal(
        demo("irds:vaswani", queries=20_000, out=tmp_path, teacher=minilm, seed=1).set_index("name")["nDCG@10"],
        table["nDCG@10"],
    )
