"""Rule books: TOML files that say which rule stands at which layers, first match wins; the field calls them composites.

A book looks like this::

    description = "z-plus on convolutions, epsilon on dense layers"
    seed = "value"             # what stands at the target: its own value, or a number
    otherwise = "relevance"    # layers without a match: the default of their kind, or "gradient"

    [[rule]]
    op = ["Conv", "ConvTranspose"]
    use = "z-plus"

    [[rule]]
    kind = "linear"
    use = "epsilon"
    epsilon = 1e-6

A rule matches when all its conditions hold: ``op`` (op types), ``kind`` (see :class:`onnxplain.ops.Kind`), ``name``
(a pattern with * and ?, which a layer of the model must fit), ``first`` and ``last`` (linear layers with no other
linear layer before or behind them, so both branches of a fork at the input are first), ``index`` (position among the
linear layers, negative from the end), ``spatial`` (whether the layer has a window), ``rectifier`` (Relu, and Clip with
a lower bound of 0, which is ReLU6).
"""

from __future__ import annotations

import fnmatch
import functools
import heapq
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from onnxplain.errors import UsageError
from onnxplain.ops import Kind, table
from onnxplain.relevance.base import Rule
from onnxplain.relevance.rules import RULES
from onnxplain.resources import resource

DEFAULTS = {
    Kind.SUM: "norm",
    Kind.PASS: "pass",
    Kind.ROUTE: "gradient",
    Kind.WINNER: "gradient",
    Kind.PRODUCT: "uniform",
    Kind.NONE: "stop",
}
"""The rule of each kind where no line of the book matches; linear layers have none."""

_KINDS = [kind.value for kind in Kind]


def _op_types(value: Any) -> bool:
    known = {op_type for _, op_type in table()}
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in known for name in names)


def _true_or_false(value: Any) -> bool:
    return isinstance(value, bool)


_CONDITIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "op": (_op_types, "op types that can be explained (`onnxplain ops` lists them)"),
    "kind": (lambda value: value in _KINDS, "one of " + ", ".join(_KINDS)),
    "name": (lambda value: isinstance(value, str), "a text with * and ? as wildcards"),
    "first": (_true_or_false, "true or false"),
    "last": (_true_or_false, "true or false"),
    "spatial": (_true_or_false, "true or false"),
    "rectifier": (_true_or_false, "true or false"),
    "index": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
}
"""Per condition, what its value must be: a test and the words for it."""


@dataclass(frozen=True)
class Place:
    """What a book's conditions are held against."""

    op_type: str
    name: str
    kind: Kind
    first: bool = False
    last: bool = False
    index: int | None = None
    from_end: int | None = None
    spatial: bool = False
    rectifier: bool = False


@dataclass(frozen=True)
class Table:
    """Where a table of a file stands: the line where it starts, and those of its keys."""

    path: Path
    start: int
    keys: dict[str, int] = field(default_factory=dict, hash=False)

    def line(self, key: str = "") -> str:
        """File and line of a key, or of the table where it has no such key."""
        return f"{self.path}, line {self.keys.get(key, self.start)}"


@dataclass(frozen=True)
class Line:
    """One entry of a book: where it stands (None: an option), conditions and a rule."""

    table: Table | None
    conditions: Mapping[str, Any] = field(hash=False)
    rule: Rule

    def matches(self, place: Place) -> bool:
        """Whether every condition holds."""
        return all(self._holds(key, value, place) for key, value in self.conditions.items())

    def _holds(self, key: str, value: Any, place: Place) -> bool:
        match key:
            case "op":
                return place.op_type in ([value] if isinstance(value, str) else value)
            case "kind":
                return bool(place.kind.value == value)
            case "name":
                return _bears(place.name, value)
            case "index":
                return value in (place.index, place.from_end)
            case _:
                return bool(getattr(place, key) is value)

    def __str__(self) -> str:
        said = ", ".join(f"{key} = {value}" for key, value in self.conditions.items())
        return f"{f'line {self.table.start}' if self.table else 'option'}: {said or 'every layer'}"


@dataclass(frozen=True)
class RuleBook:
    """A named list of lines.

    Attributes
    ----------
    name, description : str
    lines : tuple of Line
    seed : float or None
        None where the target's own value stands at the target.
    gradient : bool
        Whether layers without a match take their gradient instead of the default of their kind.
    end : str
        File and line where the rules end; empty for a book that stands in no file.
    """

    name: str
    description: str
    lines: tuple[Line, ...]
    seed: float | None = None
    gradient: bool = False
    end: str = ""

    def check_names(self, names: Sequence[str]) -> None:
        """Hold the book's patterns of layer names against the names that a model has.

        Raises
        ------
        UsageError
            No layer bears a name of the pattern.
        """
        for line in self.lines:
            pattern = line.conditions.get("name")
            if line.table and pattern is not None and not any(_bears(name, pattern) for name in names):
                offer = f"the nearest are {', '.join(map(repr, _nearest(names, pattern)))}" if names else "it has none"
                raise UsageError(f"{line.table.line('name')}: no layer of the model is named {pattern!r}; {offer}")

    def choose(self, place: Place) -> tuple[Rule, str] | None:
        """The rule for a layer and the reason, None where the book says nothing."""
        for line in self.lines:
            if line.matches(place):
                return line.rule, str(line)
        if self.gradient:
            return RULES["gradient"](), "otherwise: gradient"
        name = DEFAULTS.get(place.kind)
        return None if name is None else (RULES[name](), f"default for kind {place.kind.value}")

    @property
    def settings(self) -> set[str]:
        """The names of the settings that its rules have."""
        return {name for line in self.lines for name in line.rule.parameters()}

    def with_options(self, options: Mapping[str, Any]) -> RuleBook:
        """The book with settings such as ``low`` and ``high`` filled into every rule that has them.

        Raises
        ------
        UsageError
            No rule of the book has the setting, or the value does not fit it.
        """
        for key in options:
            if key not in self.settings:
                offer = ", ".join(sorted(self.settings)) or "none"
                raise UsageError(f"rule book {self.name!r} has no setting {key!r}; it has {offer}")
        lines = []
        for line in self.lines:
            settings = {key: value for key, value in options.items() if key in line.rule.parameters()}
            made = _make(type(line.rule), line.rule.parameters() | settings, self._options_for(line))
            lines.append(replace(line, rule=made))
        return replace(self, lines=tuple(lines))

    def _options_for(self, line: Line) -> Callable[[str], str]:
        return lambda _: f"rule book {self.name!r}, options for {line}"

    def with_rule(self, rule: Rule, **conditions: Any) -> RuleBook:
        """The book with a rule in front of all others."""
        return replace(self, lines=(Line(None, conditions, rule), *self.lines))


def rule_book_names() -> list[str]:
    """The names of the books that come with onnxplain."""
    return sorted(path.stem for path in resource("rules").glob("*.toml"))


def load_rule_book(source: str | Path) -> RuleBook:
    """A book by name or by the path of a TOML file.

    Raises
    ------
    UsageError
        No such book; a wrong key, value or rule, named with the line it stands in.
    """
    path = Path(source)
    return _read_book(path) if path.suffix == ".toml" else _bundled_book(str(source))


@functools.lru_cache
def _bundled_book(name: str) -> RuleBook:
    if name not in rule_book_names():
        raise UsageError(
            f"there is no rule book {name!r}; there are {', '.join(rule_book_names())}, or give a .toml file"
        )
    return _read_book(resource("rules") / f"{name}.toml")


def _read_book(path: Path) -> RuleBook:
    try:
        return _book(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such rule book") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


@functools.lru_cache
def _book(path: Path, text: str) -> RuleBook:
    content = tomllib.loads(text)
    book, *rules = _tables(path, text)
    _check_keys(content, {"description", "seed", "otherwise", "rule"}, book.line)
    seed = content.get("seed", "value")
    if seed != "value" and not (isinstance(seed, int | float) and not isinstance(seed, bool)):
        raise UsageError(f'{book.line("seed")}: seed must be "value" or a number, not {seed!r}')
    otherwise = content.get("otherwise", "relevance")
    if otherwise not in ("relevance", "gradient"):
        raise UsageError(f'{book.line("otherwise")}: otherwise must be "relevance" or "gradient", not {otherwise!r}')
    entries = content.get("rule", [])
    if not isinstance(entries, list) or len(entries) != len(rules):
        raise UsageError(f"{book.line('rule')}: write every rule as a [[rule]] table")
    return RuleBook(
        path.stem,
        str(content.get("description", "")),
        tuple(_line(table, entry) for table, entry in zip(rules, entries, strict=True)),
        None if seed == "value" else float(seed),
        otherwise == "gradient",
        Table(path, 1 + text.rstrip().count("\n")).line(),
    )


def _tables(path: Path, text: str) -> list[Table]:
    """The book itself and each of its rules, with the lines of their keys."""
    book = Table(path, 1)
    tables, current = [book], book
    for number, statement, content in _statements(text):
        [(key, value)] = content.items()
        if not statement.lstrip().startswith("["):
            current.keys.setdefault(key, number)
            continue
        current = Table(path, number)
        book.keys.setdefault(key, number)
        if content == {"rule": [{}]}:
            tables.append(current)
        elif key == "rule":
            tables[-1].keys.update(dict.fromkeys(value, number) | tables[-1].keys)
    return tables


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Every statement of a sound TOML file: the line where it starts, its text, and what it says when read alone.

    tomllib tells no lines. A statement ends with the first line up to which it can be read.
    """
    start, statement = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        statement += f"{line}\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if content:
            yield start, statement, content
        start, statement = number + 1, ""


def _line(table: Table, entry: dict[str, Any]) -> Line:
    use = entry.get("use")
    if not isinstance(use, str) or use not in RULES:
        said = f"unknown rule {use!r}" if "use" in entry else 'a rule needs use = "..."'
        raise UsageError(f"{table.line('use')}: {said}; there are {', '.join(sorted(RULES))}")
    settings = {field.name for field in fields(RULES[use])}
    _check_keys(entry, {"use", *_CONDITIONS, *settings}, table.line)
    conditions = {key: value for key, value in entry.items() if key in _CONDITIONS}
    for key, value in conditions.items():
        fits, wanted = _CONDITIONS[key]
        if not fits(value):
            raise UsageError(f"{table.line(key)}: {key} must be {wanted}, not {value!r}")
    parameters = {key: value for key, value in entry.items() if key in settings}
    return Line(table, conditions, _make(RULES[use], parameters, table.line))


def _make(rule: type[Rule], settings: Mapping[str, Any], where: Callable[[str], str]) -> Rule:
    """The rule with its settings; ``where`` names the place of one of them, or of the whole for an empty name."""
    values = {}
    for setting in fields(rule):
        value = settings.get(setting.name, setting.default)
        value = value.tolist() if hasattr(value, "tolist") else value
        values[setting.name] = tuple(value) if isinstance(value, list) else value
        wanted = _misfit(setting.default, values[setting.name])
        if wanted is not None:
            raise UsageError(f"{where(setting.name)}: {setting.name} must be {wanted}, not {value!r}")
    try:
        return rule(**values)
    except ValueError as error:
        raise UsageError(f"{where('')}: {error}") from error


def _bears(name: str, pattern: str) -> bool:
    """Whether a layer's name fits a pattern, of which * and ? alone are not literal."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _nearest(names: Sequence[str], pattern: str) -> list[str]:
    def likeness(name: str) -> float:
        return SequenceMatcher(None, name.lower(), pattern.strip("*").lower()).ratio()

    return heapq.nlargest(3, dict.fromkeys(names), likeness)


def _misfit(default: Any, value: Any) -> str | None:
    """What the value of a setting should have been, by the type of its default; None where it fits."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if default is None:
        numbers = value if isinstance(value, tuple) and value else [value]
        return None if value is None or all(map(_is_number, numbers)) else "a number or a list of one per channel"
    return None if _is_number(value) and value >= 0 else "a number that is not negative"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_keys(table: Mapping[str, Any], known: set[str], where: Callable[[str], str]) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where(key)}: unknown key {key!r}; known are {', '.join(sorted(known))}")
