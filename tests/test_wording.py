from __future__ import annotations

import pytest

from onnxplain.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [(0, "class", "0 classes"), (1, "class", "1 class"), (1, "tensor", "1 tensor"), (2, "tensor", "2 tensors")],
)
def test_one_and_many(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said
