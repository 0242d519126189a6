"""Small faults in Python source: each is one place that another text replaces."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

OTHERS: dict[type, str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
    ast.And: "or", ast.Or: "and", ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
"""What stands in the place of an operator."""


@dataclass(frozen=True)
class Mutant:
    line: int
    old: str
    new: str
    source: str
    """The whole file with the fault in it."""

    def __str__(self) -> str:
        return f"{self.line}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"


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
        found.append(Mutant(node.lineno, text[first:last].decode(), new, changed))
    return sorted(found, key=lambda mutant: mutant.line)


def _faults(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(node, what replaces it). Annotations, docstrings, assertions, messages and the code of types are left alone."""
    for node in _live(tree):
        match node:
            case ast.BinOp(left, operator, right) | ast.Compare(left, [operator], [right]) if type(operator) in OTHERS:
                yield node, f"({ast.unparse(left)} {OTHERS[type(operator)]} {ast.unparse(right)})"
            case ast.BoolOp(operator, values):
                yield node, "(" + f" {OTHERS[type(operator)]} ".join(f"({ast.unparse(v)})" for v in values) + ")"
            case ast.UnaryOp(ast.Not() | ast.USub(), operand):
                yield node, f"({ast.unparse(operand)})"
            case ast.Constant(bool(value)):
                yield node, str(not value)
            case ast.Constant(int(value) | float(value)):
                yield node, repr(value + 1)
            case ast.If(test) | ast.While(test) | ast.IfExp(test):
                yield test, f"(not ({ast.unparse(test)}))"
            case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise():
                yield node, "pass"
            case ast.Return(value) if value is not None and not isinstance(value, ast.Constant):
                yield node, "return None"
            case ast.Break():
                yield node, "continue"


def _live(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
                continue
            case ast.Raise():
                yield child
                continue
            case ast.AnnAssign(value=value):
                if value is not None:
                    yield from _live(ast.Expression(value))
                continue
            case ast.FunctionDef(body=body, args=arguments):
                defaults = [ast.Expr(value) for value in (*arguments.kw_defaults, *arguments.defaults) if value]
                yield from _live(ast.Module([*defaults, *body], []))
                continue
        yield child
        yield from _live(child)
