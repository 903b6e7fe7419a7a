"""Chat templates are programs that come with a model: rendered in a sandbox that also bounds what they use.

jinja2's own sandbox keeps a template away from Python's internals, but lets it loop for hours or ask for all
of memory. Here every loop and call looks at a clock, and whatever makes text or lists pays for it beforehand,
out of a budget that grows with the conversation. What a template can name is what transformers gives it.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SECONDS = 10.0
"""Of this thread's processor time for one conversation; real templates take milliseconds."""
BUDGET = 64_000_000
"""Characters and list items that a template may make, beside those for what it is given."""
_LONGEST_SOURCE = 1_000_000
"""Characters of a template; real ones have up to some fifty thousand."""
_WIDEST = 10_000
"""Widths, counts and indents that a filter or method takes."""
_BITS = 4096
"""Of a whole number that arithmetic makes."""
_LONGEST_ARGUMENT = 100
"""Characters of the separators and indents that are written many times."""
_PATIENCE = 3
"""Conversations that may go beyond the limits: a template that does it at every row would take days."""
_OVERHEAD = 32
"""What a value costs beside its characters."""
_TICKS = 256
"""Steps between two looks at the clock."""
_WIDTH = re.compile(r"\d{5,}|\*")
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes")
_WIDE = ("center", "indent", "wordwrap", "truncate", "batch", "slice", "tojson", "round")
_LONG_ARGUMENTS = ("indent", "wordwrap", "tojson")
_NESTS = ("batch", "slice", "groupby", "dictsort")
"""Filters that put lists into lists."""
_LEAVES_ALONE = frozenset(
    (
        *("length", "count", "first", "last", "list", "map", "select", "reject", "selectattr", "rejectattr"),
        *("sort", "unique", "reverse", "items", "default", "d", "min", "max", "random", "attr", "abs"),
    )
)
"""Filters that make no text of a list."""
_state = threading.local()


class _Budget:
    """What one rendering has left."""

    __slots__ = ("left", "ticks", "until")

    def __init__(self, left: int) -> None:
        self.left = left
        self.ticks = 0
        self.until = time.thread_time() + SECONDS

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise SecurityError("the template makes more text than the conversation can explain")
        self.tick()

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks % _TICKS == 0 and time.thread_time() > self.until:
            raise SecurityError(f"the template took more than {SECONDS:g} s")

    def weigh(self, value: Any) -> None:
        """Pay for a value as if it were written out: lists that hold one thing many times cost as much."""
        if isinstance(value, str):
            self.spend(_OVERHEAD + len(value))
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self.weigh(key)
                self.weigh(inner)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self.spend(_OVERHEAD)
            for inner in value:
                self.weigh(inner)
        else:
            self.spend(_OVERHEAD)


def _budget() -> _Budget:
    """The one of this thread; while a template is compiled, jinja2 computes constants with it, too."""
    found = getattr(_state, "budget", None)
    if found is None:
        found = _state.budget = _Budget(BUDGET)
    return found


class ChatTemplate:
    """A template that is compiled once and rendered often.

    Parameters
    ----------
    source
        Its Jinja text.

    Raises
    ------
    jinja2.TemplateError
        When it is no template, or too long for one; also from `render`, which may raise whatever Python does.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _LONGEST_SOURCE:
            raise SecurityError(f"the template has {len(source):,} characters")
        _state.budget = _Budget(BUDGET)
        self._exceeded = 0
        try:
            self._template = _environment().from_string(source)
        finally:
            _state.budget = None

    def render(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
        """The text that the template makes of a conversation and of `values` (special tokens, tools)."""
        if self._exceeded >= _PATIENCE:
            raise SecurityError("the template went beyond its limits too often and is not asked any more")
        given = {"messages": _plain(messages), **{name: _plain(value) for name, value in values.items()}}
        size = sum(map(_characters, messages))
        # a template may write its text anew at each turn, so the budget grows with the product
        budget = _state.budget = _Budget(BUDGET + size * (64 + 4 * len(messages)))
        try:
            pieces = []
            for piece in self._template.root_render_func(self._template.new_context(given)):
                budget.spend(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        except (SecurityError, MemoryError, RecursionError):
            self._exceeded += 1
            raise
        finally:
            _state.budget = None


@functools.lru_cache(maxsize=32)
def compiled(source: str) -> ChatTemplate:
    """The template of this text, from before where there is one."""
    return ChatTemplate(source)


def _characters(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return len(content)
    return sum(len(str(value)) for value in message.values())


def _plain(value: Any) -> Any:
    """Values of JSON alone: other objects have methods that the sandbox knows nothing of."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else f"<{type(value).__name__}>"


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with a meter: the parsed template is rewritten so that loops and literals pass by it."""

    intercepted_binops = frozenset(("+", "*", "%", "**"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _metered(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = _budget()
        budget.tick()
        args = _paid(__obj, args, budget)
        if not isinstance(__obj, Macro):
            for value in (*args, *kwargs.values()):
                if isinstance(value, (list, tuple, dict)):
                    budget.weigh(value)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (str, bytes, list, tuple)):
            budget.spend(len(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _pay_for(operator, left, right, _budget())
        result = super().call_binop(context, operator, left, right)
        if operator == "%" and isinstance(result, str):
            _budget().spend(len(result))
        return result


def _paid(function: Any, args: tuple[Any, ...], budget: _Budget) -> tuple[Any, ...]:
    """The arguments of a method of text or numbers, paid for where what it makes is larger than they are."""
    function = getattr(function, "__wrapped__", function)  # jinja2 wraps `format`
    subject, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if not isinstance(subject, (str, int)) or not isinstance(name, str):
        return args
    if name in _PADDING:
        _narrow(args)
    elif name == "replace":
        _pay_for_replacing(subject, args, budget)
    elif name == "join" and args:
        args = (list(args[0]), *args[1:])
        budget.spend(len(str(subject)) * len(args[0]))
    elif name in ("format", "format_map"):
        _check_format(subject)
    elif name in ("translate", "encode"):
        raise SecurityError(f"a chat template may not call {name}")
    return args


def _pay_for(sign: str, left: Any, right: Any, budget: _Budget) -> None:
    long = (str, list, tuple)
    if sign == "+":
        if isinstance(left, long) and isinstance(right, long):
            budget.spend(len(left) + len(right))
    elif sign == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, long) and isinstance(other, int):
                budget.spend(len(one) * max(other, 0))
                return
        if isinstance(left, int) and isinstance(right, int):
            _short(left.bit_length() + right.bit_length())
    elif sign == "**":
        if isinstance(left, int) and isinstance(right, int):
            _short(left.bit_length() * max(right, 0))
    elif isinstance(left, str):
        _check_format(left)
        budget.weigh(right)


def _short(bits: int) -> None:
    if bits > _BITS:
        raise SecurityError("the template computes with a number that is too large")


def _narrow(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and value > _WIDEST for value in values):
        raise SecurityError(f"the template asks for a width of more than {_WIDEST:,}")


def _check_format(text: Any) -> None:
    if _WIDTH.search(str(text)):
        raise SecurityError("the template formats with a width that is too large")


def _pay_for_replacing(subject: Any, args: Sequence[Any], budget: _Budget) -> None:
    text = str(subject)
    if len(args) >= 2:
        old, new = str(args[0]), str(args[1])
        budget.spend(len(text) + len(new) * text.count(old))


def _metered(template: nodes.Template) -> nodes.Template:
    """The template with every loop, join, slice and literal passed through a filter that meters it."""
    _rewrite(template)
    return template


def _rewrite(node: nodes.Node) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_replaced(one) if isinstance(one, nodes.Node) else one for one in value]
        elif isinstance(value, nodes.Node):
            setattr(node, name, _replaced(value))


def _replaced(node: nodes.Node) -> nodes.Node:
    weight = _constants(node) if isinstance(node, nodes.For) else 0
    _rewrite(node)
    if isinstance(node, nodes.For):
        node.iter = _filter("ftk_ticked", node.iter, nodes.Const(weight))
    elif isinstance(node, nodes.Concat):
        return _filter("ftk_concat", nodes.List(node.nodes, lineno=node.lineno))
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filter("ftk_counted", node)
    elif isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)) and getattr(node, "ctx", "load") == "load":
        parts = [one.value if isinstance(one, nodes.Pair) else one for one in node.items]
        if not all(isinstance(one, nodes.Const) for one in parts):
            return _filter("ftk_weighed", node)
    return node


def _filter(name: str, node: nodes.Node, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _constants(loop: nodes.For) -> int:
    """Characters that stand in a loop: each turn may write them."""
    written = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
    texts = (const.value for const in loop.find_all(nodes.Const))
    return written + sum(len(text) for text in texts if isinstance(text, str))


def _ticked(values: Any, weight: int) -> Iterator[Any]:
    budget = _budget()
    for value in values:
        budget.spend(weight)
        yield value


def _counted(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)):
        _budget().spend(len(value))
    return value


def _weighed(value: Any) -> Any:
    _budget().weigh(value)
    return value


def _concat(values: list[Any]) -> str:
    _budget().weigh(values)
    return "".join(map(str, values))


def _written(value: Any) -> Any:
    """What stands between double braces, before it becomes text."""
    if type(value) is str:
        _budget().spend(len(value))
    else:
        _budget().weigh(value)
    return value


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it makes."""
    hidden = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.tick()
        subject, *others = args[hidden:] or (None,)
        others += kwargs.values()
        if name in _WIDE:
            _narrow(others)
        if name in _LONG_ARGUMENTS and any(len(str(one)) > _LONGEST_ARGUMENT for one in others):
            raise SecurityError(f"the template gives the filter {name} an argument that is too long")
        if name == "replace":
            _pay_for_replacing(subject, others, budget)
        elif name == "format":
            _check_format(subject)
        elif name == "sum" and not all(isinstance(one, (int, float, str, type(None))) for one in others):
            raise SecurityError("a chat template may only add up numbers")
        elif name == "join":
            subject = list(subject)
            args = (*args[:hidden], subject, *args[hidden + 1 :])
            budget.spend(len(str(others[0])) * len(subject) if others else 0)
        if name not in _LEAVES_ALONE:
            for one in (subject, *others):
                if isinstance(one, (list, tuple, dict)):
                    budget.weigh(one)
        result = function(*args, **kwargs)
        if name in _NESTS:
            result = list(result)
            budget.weigh(result)
        elif isinstance(result, (str, list, tuple)):
            budget.spend(len(result))
        return result

    return paid


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: not escaped for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    if len(format) > _LONGEST_ARGUMENT:
        raise SecurityError("the template asks for a date in a form that is too long")
    return datetime.now().strftime(format)


class _Dict:
    """`dict` without the rest of that class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """Holds no names that begin with an underscore: the sandbox would take them for its own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *others = args
        values = dict(*others, **kwargs)
        for name in values:
            _public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a chat template may not name a value {name!r}")


class _Generation(Extension):
    """`{% generation %}` marks what a model says; here it is written like the rest."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@functools.cache
def _environment() -> _Environment:
    made = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        finalize=_written,
        cache_size=0,
    )
    for name in ("urlize", "xmlattr", "filesizeformat", "pprint"):
        made.filters.pop(name, None)
    made.filters["tojson"] = _tojson
    made.filters = {name: _bounded(name, function) for name, function in made.filters.items()}
    made.filters |= {
        "ftk_ticked": _ticked,
        "ftk_concat": _concat,
        "ftk_counted": _counted,
        "ftk_weighed": _weighed,
    }
    made.globals.pop("lipsum", None)
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return made
