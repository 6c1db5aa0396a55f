"""The text of a C file as it grows: names, constants in flash, the helpers that are used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.errors import InvalidValueError, MissingExtraError
from bitwright.export.memory import SIZES, c_type

if TYPE_CHECKING:
    import jinja2

WIDTH = 108
KEYWORDS = re.compile(
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|int|long|"
    "register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|"
    "while|main"
)


class Text:
    """Constants and helpers of one file, each once, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.helpers: dict[str, str] = {}
        self.flash = 0
        """Bytes of all constants."""

    def array(self, name: str, values: np.ndarray, kind: str | None = None) -> str:
        """A constant array of integers in the smallest type, or in `kind`; returns its name."""
        flat = values.reshape(-1)
        kind = kind or c_type(int(flat.min()), int(flat.max()))
        literals = [literal(value) for value in flat.tolist()]
        step = WIDTH // (max(map(len, literals)) + 2)
        lines = [", ".join(literals[i : i + step]) for i in range(0, len(literals), step)]
        body = "    " + ",\n    ".join(lines)
        self.constants.append(f"static const {kind} {name}[{flat.size}] = {{\n{body}\n}};")
        self.flash += flat.size * SIZES[kind]
        return name

    def per_channel(self, name: str, values: np.ndarray) -> str:
        """A number of channel `c`: a literal where all are one."""
        if bool((values == values.flat[0]).all()):
            return literal(int(values.flat[0]))
        return f"{self.array(name, values)}[c]"

    def helper(self, macro: str, name: str, *arguments: Any) -> str:
        """The function `name`, made by a macro of runtime.c.j2; returns its name."""
        if name not in self.helpers:
            self.helpers[name] = render_macro("runtime.c.j2", macro, name, *arguments)
        return name


def literal(value: int) -> str:
    """A C99 literal; INT64_MIN has none."""
    return str(value) if value > -(1 << 63) else f"({value + 1} - 1)"


def plus(value: int) -> str:
    """ " + 3", " - 3", or nothing for 0."""
    if not value:
        return ""
    return f" + {value}" if value > 0 else f" - {-value}"


def times(name: str, stride: int) -> str:
    """ "p * 16"."""
    return name if stride == 1 else f"{name} * {stride}"


def cast(kind: str, expression: str) -> str:
    """ "(int32_t)v0"."""
    simple = re.fullmatch(r"\w+(\([^()]*\))?", expression)
    return f"({kind}){expression}" if simple else f"({kind})({expression})"


def comment(text: str) -> str:
    """Text that cannot end a comment or a line."""
    return re.sub(r"[^A-Za-z0-9_.:, ()\[\]+-]", "_", text)


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """A C identifier for every name, apart from each other and from every helper."""
    return {
        name: f"s{i}_{re.sub('[^A-Za-z0-9]+', '_', name).strip('_')[:40]}" for i, name in enumerate(names)
    }


def check_identifier(name: str) -> None:
    """Raise where `name` cannot begin the names of a C file."""
    private = re.fullmatch(r"s\d+", name)  # begins the names of stages
    if private or KEYWORDS.fullmatch(name) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise InvalidValueError(
            "the name of a C network is an identifier: letters, digits and _, a letter first, not s0, s1...",
            got=repr(name),
            fix="choose one with --name",
        )


def render(template: str, **context: Any) -> str:
    """A template of this room."""
    return _environment().get_template(template).render(**context)


def render_macro(template: str, macro: str, *arguments: Any) -> str:
    """One macro of a template."""
    return str(getattr(_environment().get_template(template).module, macro)(*arguments))


@cache
def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("the C output needs jinja2", fix="pip install 'bitwright[export]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bitwright.export"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.globals |= {"plus": plus, "times": times}
    return environment
