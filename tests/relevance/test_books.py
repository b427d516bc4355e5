"""Rule books: what a line matches, what a user's own file may say, and that every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.relevance.books import load_rule_book, rule_book_names

BOOKS = [
    "deconvnet", "epsilon", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box", "epsilon-plus",
    "epsilon-plus-flat", "excitation-backprop", "guided-backprop", "lrp-0", "salient-relevance",
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> onnxplain.Model:
    """Two convolutions on the input, joined, a third, a pool, two dense layers."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (2, 3, 1, 1), "w2": (2, 3, 3, 3), "w3": (4, 4, 1, 1), "w4": (4, 5), "w5": (5, 2), "gain": (1, 5)}
    nodes = [
        nets.node("Conv", ["x", "w1"], "left"),
        nets.node("Conv", ["x", "w2"], "right", pads=[1, 1, 1, 1]),
        nets.node("Concat", ["left", "right"], "joined", axis=1),
        nets.node("Relu", ["joined"], "relu"),
        nets.node("Conv", ["relu", "w3"], "block.conv"),
        nets.node("GlobalAveragePool", ["block.conv"], "pool"),
        nets.node("Flatten", ["pool"], "flat"),
        nets.node("Gemm", ["flat", "w4"], "dense"),
        nets.node("Mul", ["dense", "gain"], "scaled"),
        nets.node("Mul", ["scaled", "dense"], "gated"),
        nets.node("MatMul", ["gated", "w5"], "logits"),
    ]
    constants = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return onnxplain.load(nets.model(nodes, {"x": ["N", 3, 4, 4]}, ["logits"], constants))


def write(folder: Path, *lines: str) -> str:
    book = folder / "own.toml"
    book.write_text("\n".join(lines))
    return str(book)


def chosen(model: onnxplain.Model, rules: str, **options: object) -> dict[str, str]:
    return {step.layer.name: step.rule.name for step in onnxplain.plan(model, rules=rules, **options)}


LINEAR = ["left", "right", "block.conv", "dense", "logits"]


@pytest.mark.parametrize(
    ("condition", "matched"),
    [
        ('op = "Conv"', ["left", "right", "block.conv"]),
        ('op = ["Gemm", "MatMul"]', ["dense", "logits"]),
        ('kind = "linear"', LINEAR),
        ('kind = "linear"\nname = "*t"', ["left", "right"]),
        ('kind = "linear"\nname = "block.*"', ["block.conv"]),
        ('kind = "linear"\nname = "?ense"', ["dense"]),
        ("first = true", ["left", "right"]),
        ("last = true", ["logits"]),
        ('kind = "linear"\nfirst = false', ["block.conv", "dense", "logits"]),
        ('kind = "linear"\nlast = false', LINEAR[:-1]),
        ("index = 0", ["left"]),
        ("index = 3", ["dense"]),
        ("index = -1", ["logits"]),
        ("index = -4", ["right"]),
        ("index = 5", []),
        ('kind = "linear"\nspatial = true', ["left", "right", "block.conv"]),
        ('kind = "linear"\nspatial = false', ["dense", "logits"]),
        ("spatial = true\nfirst = false\nlast = false\nindex = 2", ["block.conv"]),
    ],
)
def test_a_line_matches_where_all_its_conditions_hold(
    model: onnxplain.Model, condition: str, matched: list[str], tmp_path: Path
) -> None:
    rest = ("[[rule]]", 'kind = "linear"', 'use = "epsilon"')
    rules = chosen(model, write(tmp_path, "[[rule]]", condition, 'use = "w-square"', *rest))
    assert [name for name, rule in rules.items() if rule == "w-square"] == matched


def test_rectifiers_are_what_cuts_off_below_zero(model: onnxplain.Model, tmp_path: Path) -> None:
    lines = ("[[rule]]", "rectifier = true", 'use = "stop"', "[[rule]]", 'kind = "linear"', 'use = "epsilon"')
    rules = chosen(model, write(tmp_path, *lines))
    op_types = {layer.name: layer.op_type for layer in model.graph.layers}
    assert {op_types[name] for name, rule in rules.items() if rule == "stop"} == {"Relu"}


def test_spatial_is_having_a_window(model: onnxplain.Model, tmp_path: Path) -> None:
    lines = ("[[rule]]", "spatial = true", 'use = "gradient"', "[[rule]]", 'kind = "linear"', 'use = "epsilon"')
    rules = chosen(model, write(tmp_path, *lines))
    assert [name for name in ("left", "block.conv", "pool") if rules[name] == "gradient"] == [
        "left",
        "block.conv",
        "pool",
    ]
    assert rules["dense"] == "epsilon"


def test_the_first_line_that_matches_wins_and_the_plan_names_it(model: onnxplain.Model, tmp_path: Path) -> None:
    book = write(
        tmp_path,
        "# a comment",
        'description = "mine"',
        "[[rule]]  # the middle",
        'name = "block.*"',
        'use = "gamma"',
        "gamma = 0.5",
        "",
        "[[ rule ]]",
        'kind = "linear"',
        'use = "epsilon"',
        "epsilon = 0.125",
    )
    plan = onnxplain.plan(model, rules=book)
    steps = {step.layer.name: step for step in plan}
    assert steps["block.conv"].rule.parameters()["gamma"] == 0.5
    assert steps["block.conv"].reason == "line 3: name = block.*"
    assert steps["dense"].rule.parameters()["epsilon"] == 0.125
    assert steps["dense"].reason == "line 8: kind = linear"
    assert steps["relu"].reason == "default for kind pass"
    assert load_rule_book(book).description == "mine"


def test_layers_without_a_line_take_the_default_of_their_kind(model: onnxplain.Model) -> None:
    rules = chosen(model, "epsilon")
    defaults = {
        "joined": "gradient",
        "relu": "pass",
        "pool": "norm",
        "flat": "gradient",
        "scaled": "pass",
        "gated": "uniform",
    }
    assert {name: rules[name] for name in defaults} == defaults


def test_otherwise_gradient_and_a_seed(model: onnxplain.Model, tmp_path: Path) -> None:
    book = write(tmp_path, "seed = 2", 'otherwise = "gradient"')
    assert set(chosen(model, book).values()) == {"gradient"}
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    doubled = onnxplain.explain(model, x, rules=book).relevance["x"]
    np.testing.assert_allclose(doubled, 2 * onnxplain.explain(model, x, "gradient").relevance["x"], rtol=1e-5)


@pytest.mark.parametrize("name", rule_book_names())
def test_bundled_books_load_and_choose_a_rule_for_every_layer(model: onnxplain.Model, name: str) -> None:
    bounds = {"low": -1.0, "high": 1.0} if name == "epsilon-gamma-box" else {}
    plan = onnxplain.plan(model, rules=name, **bounds)
    assert [step.layer for step in plan] == list(model.graph.layers)
    assert load_rule_book(name).description


def test_the_books_of_the_field_are_there() -> None:
    assert set(BOOKS) <= set(rule_book_names())


def test_options_reach_every_rule_that_has_them_and_no_other(model: onnxplain.Model) -> None:
    plan = onnxplain.plan(
        model, rules="epsilon-gamma-box", low=np.array([-1, -2, -3.0]), high=np.float32(2), epsilon=0.25
    )
    rules = {step.layer.name: step.rule.parameters() for step in plan}
    assert rules["left"]["low"] == rules["right"]["low"] == (-1.0, -2.0, -3.0)
    assert rules["left"]["high"] == 2.0
    assert rules["dense"]["epsilon"] == rules["logits"]["epsilon"] == 0.25
    assert rules["block.conv"]["stabilizer"] == 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 0.5}, "'epsilon-plus-flat' has no setting 'gamma'; it has bias, epsilon, stabilizer"),
        (
            {"epsilon": "much"},
            "options for line 12: kind = linear: epsilon must be a number that is not negative, not 'much'",
        ),
        ({"epsilon": -1.0}, "epsilon must be a number that is not negative, not -1.0"),
        ({"bias": 1}, "bias must be true or false, not 1"),
        ({"stabilizer": float("nan")}, "stabilizer must be a number"),
    ],
)
def test_options_that_do_not_fit(model: onnxplain.Model, options: dict[str, object], said: str) -> None:
    with pytest.raises(onnxplain.UsageError) as error:
        onnxplain.plan(model, **options)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (None, 1.0, "z-box at 'left' needs the bounds of the input: give low and high"),
        (2.0, 1.0, "low must not lie above high"),
        ((0.0, 0.0, 2.0), 1.0, "low must not lie above high"),
        ((0.0, 0.0), (1.0, 1.0, 1.0), "as many numbers"),
        (((0.0,),), 1.0, "low must be a number or a list of one per channel"),
    ],
)
def test_bounds_that_do_not_fit(model: onnxplain.Model, low: object, high: object, said: str) -> None:
    options = {key: value for key, value in {"low": low, "high": high}.items() if value is not None}
    with pytest.raises(onnxplain.UsageError, match=said):
        onnxplain.plan(model, rules="epsilon-gamma-box", **options)


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_bounds_per_channel_must_fit_the_layer(model: onnxplain.Model, engine: str) -> None:
    x = np.zeros((1, 3, 4, 4), np.float32)
    with pytest.raises(onnxplain.UsageError, match="'right': low and high hold one number or 3, not 2"):
        onnxplain.explain(model, x, rules="epsilon-gamma-box", low=(0.0, 0.0), high=1.0, engine=engine)


OWN = {
    "an unknown key of the book": (["colour = 1"], "own.toml, line 1: unknown key 'colour'; known are"),
    "an unknown table": (["seed = 1", "[colour]", "seed = 2"], "own.toml, line 2: unknown key 'colour'; known are"),
    "an unknown dotted key": (["", "colour.red = 1"], "own.toml, line 2: unknown key 'colour'; known are"),
    "a seed that is no number": (["", 'seed = "logit"'], 'own.toml, line 2: seed must be "value" or a number'),
    "a seed that is true": (["seed = true"], 'own.toml, line 1: seed must be "value" or a number'),
    "otherwise": (
        ["# mine", "", 'otherwise = "pass"'],
        'own.toml, line 3: otherwise must be "relevance" or "gradient", not \'pass\'',
    ),
    "no TOML": (["[[rule]"], "is not a TOML file"),
    "a single table": (
        ["seed = 1", "[rule]", 'use = "epsilon"'],
        "own.toml, line 2: write every rule as a [[rule]] table",
    ),
    "an inline array": (["", 'rule = [{use = "epsilon"}]'], "own.toml, line 2: write every rule as a [[rule]] table"),
    "an unknown rule": (
        ["", "[[rule]]", 'use = "epsilom"'],
        "own.toml, line 3: unknown rule 'epsilom'; there are alpha-beta",
    ),
    "no rule": (["[[rule]]", 'op = "Conv"'], 'own.toml, line 1: a rule needs use = "..."'),
    "a rule that is a list": (["[[rule]]", 'use = ["epsilon"]'], "line 2: unknown rule ['epsilon']"),
    "an unknown key of a rule": (["[[rule]]", 'use = "flat"', "gamma = 1"], "line 3: unknown key 'gamma'; known are"),
    "a table in a rule": (
        ["[[rule]]", 'use = "flat"', "[rule.colour]", "use = 1", "[[rule]]", 'use = "flat"'],
        "line 3: unknown key 'colour'; known are",
    ),
    "a rule below a table in a rule": (
        ["[[rule]]", 'use = "flat"', "[[rule]]", "[rule.use]", 'use = "flat"'],
        "line 4: unknown rule {'use': 'flat'}",
    ),
    "an unknown op": (["[[rule]]", 'op = "Convv"', 'use = "flat"'], "line 2: op must be op types"),
    "an op that is a number": (["[[rule]]", "op = 3", 'use = "flat"'], "line 2: op must be op types"),
    "no op": (["[[rule]]", "op = []", 'use = "flat"'], "line 2: op must be op types"),
    "an unknown kind": (
        ["[[rule]]", 'kind = "dense"', 'use = "flat"'],
        "line 2: kind must be one of linear, sum, pass",
    ),
    "a list of kinds": (["[[rule]]", 'kind = ["sum"]', 'use = "flat"'], "line 2: kind must be one of"),
    "a name that is a number": (["[[rule]]", "name = 3", 'use = "flat"'], "line 2: name must be a text"),
    "first as text": (["[[rule]]", 'first = "yes"', 'use = "flat"'], "line 2: first must be true or false, not 'yes'"),
    "index true": (["[[rule]]", "index = true", 'use = "flat"'], "line 2: index must be a whole number, not True"),
    "index 1.5": (["[[rule]]", "index = 1.5", 'use = "flat"'], "line 2: index must be a whole number, not 1.5"),
    "a setting as text": (["[[rule]]", 'use = "gamma"', 'gamma = "x"'], "line 3: gamma must be a number"),
    "a negative setting": (
        ["[[rule]]", 'use = "gamma"', "gamma = -1"],
        "line 3: gamma must be a number that is not negative",
    ),
    "a setting as a list": (["[[rule]]", 'use = "gamma"', "gamma = [1, 2]"], "line 3: gamma must be a number"),
    "bias as a number": (["[[rule]]", 'use = "gamma"', "bias = 0"], "line 3: bias must be true or false, not 0"),
    "alpha and beta": (["", "", "[[rule]]", 'use = "alpha-beta"', "alpha = 3"], "line 3: alpha and beta"),
    "bounds": (["[[rule]]", 'use = "z-box"', "low = 1", "high = 0"], "line 1: low must not lie above high"),
}


@pytest.mark.parametrize("mistake", OWN)
def test_mistakes_in_a_book_name_the_line(mistake: str, tmp_path: Path) -> None:
    lines, said = OWN[mistake]
    with pytest.raises(onnxplain.UsageError) as error:
        load_rule_book(write(tmp_path, *lines))
    assert said in str(error.value)


def test_lines_are_found_behind_texts_and_lists_of_several_lines(model: onnxplain.Model, tmp_path: Path) -> None:
    book = write(
        tmp_path,
        'description = """',
        "[[rule]]",
        'use = "nonsense"',
        '"""  # [[rule]]',
        '[["rule"]]',
        "op = [  # two",
        "    'Conv', # [[rule]]",
        '    "Gemm",',
        "]",
        "use = '''",
        "flat'''",
        "[[rule]]",
        'kind = "linear"',
        '"use" = "epsilon"',
    )
    reasons = {step.layer.name: step.reason for step in onnxplain.plan(model, rules=book)}
    assert reasons["dense"] == "line 5: op = ['Conv', 'Gemm']"
    assert reasons["logits"] == "line 12: kind = linear"
    assert load_rule_book(book).description == '[[rule]]\nuse = "nonsense"\n'


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("nosuchlayer*", ""),
        ("DENSE", "; the nearest are 'dense', "),
        ("*.block.con", "; the nearest are 'block.conv', "),
    ],
)
def test_a_name_that_no_layer_has_is_an_error(
    model: onnxplain.Model, pattern: str, nearest: str, tmp_path: Path
) -> None:
    lines = ("[[rule]]", 'kind = "linear"', 'use = "epsilon"', "[[rule]]", 'use = "flat"', f'name = "{pattern}"')
    with pytest.raises(onnxplain.UsageError) as error:
        onnxplain.plan(model, rules=write(tmp_path, *lines))
    assert f"own.toml, line 6: no layer of the model is named '{pattern}'{nearest}" in str(error.value)
    assert str(error.value).count("'") == 8, "the pattern and three names"


def test_a_name_may_be_that_of_a_layer_off_the_path(model: onnxplain.Model, tmp_path: Path) -> None:
    lines = ("[[rule]]", 'name = "logits"', 'use = "w-square"', "[[rule]]", 'kind = "linear"', 'use = "epsilon"')
    assert "w-square" not in chosen(model, write(tmp_path, *lines), output="dense").values()


def test_brackets_in_names_are_no_wildcards(tmp_path: Path) -> None:
    net = nets.model(
        [nets.node("MatMul", ["x", "w"], "y", name="block[0]")], {"x": ["N", 2]}, constants={"w": np.eye(2)}
    )
    book = write(tmp_path, "[[rule]]", 'name = "*[0]"', 'use = "flat"')
    assert chosen(onnxplain.load(net), book) == {"block[0]": "flat"}


def test_a_layer_without_a_rule_is_named_with_the_line_where_the_rules_end(
    model: onnxplain.Model, tmp_path: Path
) -> None:
    said = r"own.toml, line 4: the rules of 'own' end without one for Gemm 'dense'; add .* kind = .linear."
    with pytest.raises(onnxplain.UsageError, match=said):
        onnxplain.plan(model, rules=write(tmp_path, "", "[[rule]]", 'op = "Conv"', 'use = "flat"', "", ""))


def test_a_rule_on_the_wrong_kind_names_line_and_layer(model: onnxplain.Model, tmp_path: Path) -> None:
    lines = ("", "[[rule]]", 'op = "Relu"', 'use = "flat"', "[[rule]]", 'kind = "linear"', 'use = "epsilon"')
    with pytest.raises(
        onnxplain.UsageError,
        match=r"'flat' \(line 2: op = Relu\) fits layers of kind linear, not Relu 'relu' of kind pass",
    ):
        onnxplain.plan(model, rules=write(tmp_path, *lines))


def test_books_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(onnxplain.UsageError, match="no rule book 'epsilon-minus'; there are deconvnet"):
        load_rule_book("epsilon-minus")
    with pytest.raises(onnxplain.UsageError, match="no such rule book"):
        load_rule_book(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(onnxplain.UsageError, match="cannot be read"):
        load_rule_book(tmp_path / "folder.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(onnxplain.UsageError, match="is not a TOML file"):
        load_rule_book(tmp_path / "bytes.toml")
