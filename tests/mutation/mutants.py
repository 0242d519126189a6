"""Small faults in Python source: each is one place that another text replaces."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PAIRS = [
    (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or), (ast.BitAnd, ast.BitOr),
]  # fmt: skip
OTHERS: dict[type, Any] = dict([*_PAIRS, *((other, one) for one, other in _PAIRS)])
OTHERS |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult}
"""What stands in the place of an operator."""


@dataclass(frozen=True)
class Mutant:
    line: int
    old: str
    """The whole lines that it changes, joined by blanks."""
    new: str
    source: str
    """The whole file with the fault in it."""


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines; those that Python cannot parse are left out."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, new in _faults(ast.parse(source)):
        assert isinstance(node, ast.expr | ast.stmt) and node.end_lineno and node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        text = source.encode()
        changed = (text[:first] + new.encode() + text[last:]).decode()
        try:
            ast.parse(changed)
        except SyntaxError:
            continue
        begin, end = starts[node.lineno - 1], starts[node.end_lineno]
        old = " ".join(text[begin:end].decode().split())
        lines = " ".join((text[begin:first] + new.encode() + text[last:end]).decode().split())
        found.append(Mutant(node.lineno, old, lines, changed))
    return sorted(found, key=lambda mutant: mutant.line)


def _faults(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(node, what replaces it). Annotations, docstrings, assertions (strict= too), messages, decorators, types are left alone."""
    for node in _live(tree):
        match node:
            case ast.BinOp(left, operator, right) if type(operator) in OTHERS:
                yield node, f"({ast.unparse(ast.BinOp(left, OTHERS[type(operator)](), right))})"
            case ast.Compare(left, [operator], right) if type(operator) in OTHERS:
                yield node, f"({ast.unparse(ast.Compare(left, [OTHERS[type(operator)]()], right))})"
            case ast.BoolOp(operator, values):
                yield node, f"({ast.unparse(ast.BoolOp(OTHERS[type(operator)](), values))})"
            case ast.UnaryOp(ast.Not() | ast.USub(), operand):
                yield node, f"({ast.unparse(operand)})"
            case ast.Constant(bool(value)):
                yield node, str(not value)
            case ast.Constant(int(value) | float(value)):
                yield node, repr(value + 1)
            case ast.If(test) | ast.While(test) | ast.IfExp(test) if not _turned_anyway(test):
                yield test, f"(not ({ast.unparse(test)}))"
            case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise():
                yield node, "pass"
            case ast.Return(value) if value is not None and not isinstance(value, ast.Constant):
                yield node, "return None"
            case ast.Break():
                yield node, "continue"


def _turned_anyway(test: ast.expr) -> bool:
    """Whether another operator already makes the opposite of it."""
    turned = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
    match test:
        case ast.UnaryOp(ast.Not()):
            return True
        case ast.Compare(ops=[operator]):
            return isinstance(operator, turned)
    return False


def _live(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.keyword(arg="strict"):
                continue
            case ast.Raise():
                yield child
                continue
            case ast.AnnAssign(value=value):
                if value is not None:
                    yield from _live(ast.Expression(value))
                continue
            case ast.ClassDef(body=body):
                yield from _live(ast.Module(body, []))
                continue
            case ast.FunctionDef(body=body, args=arguments):
                defaults = [ast.Expr(value) for value in (*arguments.kw_defaults, *arguments.defaults) if value]
                yield from _live(ast.Module([*defaults, *body], []))
                continue
        yield child
        yield from _live(child)
