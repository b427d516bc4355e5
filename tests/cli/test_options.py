"""Options of methods are written as JSON, as Python spells its constants, or as text."""

import pytest

from onnxplain.cli.options import method_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("[7,5,3,3]", [7, 5, 3, 3]),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("center", "center"),
    ],
)
def test_a_value_is_read_as_what_it_spells(text, value):
    assert method_options([f"key={text}"]) == {"key": value}
