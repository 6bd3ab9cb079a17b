"""Does a body depend on the order of a set? The same body, compiled again so that such sets iterate backwards.

Texts hash differently in every process, and most objects by their address, so a set of them has another order after
each restart. One process cannot show that by itself. Sets whose order is the same everywhere keep it: those of numbers,
and those of tasks that asyncio returns in a body.
"""

from __future__ import annotations
import __future__

import ast
import asyncio
import dis
import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from types import CellType, CodeType, FunctionType, NoneType
from typing import Any, Final, cast
from uuid import UUID

_ORDER: Final = "__boxflow_order__"
_POP: Final = "__boxflow_pop__"

_STEADY_HASHES: Final = frozenset(
    kind.__hash__ for kind in (int, float, complex, NoneType, Decimal, Fraction, UUID, timedelta)
)
"""How something hashes to the same number in every process; so do futures and tasks on the loop of a body."""

_TAKES_ORDER: Final = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "filter", "dict", "deque"})
_TAKES_ORDER_AS_METHOD: Final = frozenset({"join", "extend", "extendleft", "fromkeys", "gather", "as_completed"})

_GET_ITER: Final = dis.opmap["GET_ITER"]

_known: dict[CodeType, CodeType | None] = {}


def with_other_set_orders(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """*function* with such sets backwards; None where it iterates over nothing, or its source is not to be had."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    if code not in _known:
        _known[code] = _compiled(function) if _iterates(code) else None
    made = _known[code]
    if made is None:
        return None
    own: dict[str, CellType] = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    own |= {_ORDER: CellType(_order), _POP: CellType(_pop)}
    again = FunctionType(
        made,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(own[name] for name in made.co_freevars),
    )
    again.__kwdefaults__ = function.__kwdefaults__
    return again


def _iterates(code: CodeType) -> bool:
    if _GET_ITER in code.co_code[::2] or not _TAKES_ORDER.isdisjoint(code.co_names):
        return True
    if "pop" in code.co_names or not _TAKES_ORDER_AS_METHOD.isdisjoint(code.co_names):
        return True
    return any(_iterates(each) for each in code.co_consts if isinstance(each, CodeType))


def _compiled(function: FunctionType) -> CodeType | None:
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return None
    indented = lines[0][:1].isspace()
    try:
        # Not dedented: that would change texts of several lines.
        tree = ast.parse(("if True:\n" if indented else "") + "".join(lines))
    except SyntaxError:  # A lambda in the middle of a line, say.
        return None
    statement = tree.body[0]
    if indented and isinstance(statement, ast.If):
        statement = statement.body[0]
    if not isinstance(statement, ast.AsyncFunctionDef) or len(statement.decorator_list) > 1:
        return None  # Another decorator has changed the function, and is not undone.
    statement.decorator_list = []
    statement.body = [cast(ast.stmt, _Wrapping().visit(each)) for each in statement.body]
    _forget_types(statement)
    names = ", ".join([*function.__code__.co_freevars, _ORDER, _POP])
    # Within a function that has what the body has from outside, so that these names are found there.
    outer = cast(ast.FunctionDef, ast.parse(f"def outer({names}): pass").body[0])
    outer.body = [statement]
    module = ast.Module(body=[outer], type_ignores=[])
    ast.fix_missing_locations(module)
    ast.increment_lineno(module, first - 1 - indented)
    # Its own way with annotations: steps that are defined in it have return types.
    flags = function.__code__.co_flags & __future__.annotations.compiler_flag
    code = compile(module, function.__code__.co_filename, "exec", dont_inherit=True, flags=flags)
    return _inner(_inner(code, "outer"), statement.name).replace(co_qualname=function.__code__.co_qualname)


def _forget_types(function: ast.AsyncFunctionDef) -> None:
    function.returns = None
    function.args.defaults = [ast.Constant(None) for _ in function.args.defaults]
    for each in (*function.args.posonlyargs, *function.args.args):
        each.annotation = None


def _inner(code: CodeType, name: str) -> CodeType:
    return next(each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == name)


class _Wrapping(ast.NodeTransformer):
    """Wraps whatever is iterated over."""

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.iter = _call(_ORDER, node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if not node.is_async:
            node.iter = _call(_ORDER, node.iter)
        return node

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            node.value = _call(_ORDER, node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(target, ast.Tuple | ast.List) for target in node.targets):
            node.value = _call(_ORDER, node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node.func:
            case ast.Name(id=name) if name in _TAKES_ORDER:
                wrapped = True
            case ast.Attribute(attr="pop", value=owner) if not node.args and not node.keywords:
                return ast.copy_location(_call(_POP, owner), node)
            case ast.Attribute(attr=name):
                wrapped = name in _TAKES_ORDER_AS_METHOD
            case _:
                wrapped = False
        if wrapped:
            node.args = [each if isinstance(each, ast.Starred) else _call(_ORDER, each) for each in node.args]
        return node


def _call(name: str, argument: ast.expr) -> ast.Call:
    function = ast.copy_location(ast.Name(id=name, ctx=ast.Load()), argument)
    return ast.copy_location(ast.Call(func=function, args=[argument], keywords=[]), argument)


def _order(iterable: Any) -> Any:
    """*iterable*, backwards when it is a set whose order is another in each process."""
    if not isinstance(iterable, set | frozenset):
        return iterable
    members = list(cast("Iterable[Any]", iterable))
    return cast(Any, iterable) if all(_is_steady(member) for member in members) else members[::-1]


def _pop(owner: Any) -> Any:
    if not issubclass(type(owner), set) or not owner:
        return owner.pop()  # Of an empty set it raises what it raises.
    member = next(iter(_order(owner)))
    owner.remove(member)
    return member


def _is_steady(member: object) -> bool:
    if isinstance(member, tuple | frozenset):
        return all(_is_steady(each) for each in cast("Iterable[object]", member))
    # By the very hash: a subclass may have its own, as a member of an Enum does, which hashes by its name.
    return isinstance(member, asyncio.Future) or type(member).__hash__ in _STEADY_HASHES
