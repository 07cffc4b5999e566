"""Does every name that the sources use exist, in lines that no test has ever run, too?

A line that is reached once in 8 MiB may call what was renamed long ago, and nobody notices before a user's broker does.
What can be known without running anything is checked here, for the broker, the lab and the tests:

1. a name is bound in its module, in a function around it, or is a builtin;
2. what is imported from a module of ours, or asked of a module (`errno.ENOSPC`), is there;
3. an attribute of an object whose class is ours and known is defined by that class, its bases or a subclass. Known are
   `self`; parameters, fields and results with an annotation; what is made by `x = Name(...)` or `self.x = Name(...)`.

Where a class is not known for sure (a variable that is bound twice, a base from another package, `__getattr__`) nothing
is said: this finds renamed methods, it proves no types.
"""

import ast
import builtins
import enum
import importlib
import symtable
import sys
import types
import typing
from collections import defaultdict
from functools import cached_property
from pathlib import Path

import pytest

from refbroker.config_keys import KEYS

ROOT = Path(__file__).parent.parent
OURS = ("refbroker", "chaos", "tests")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BY_NAME = {"broker": "refbroker.broker.Broker", "partition": "refbroker.log.partition.Partition"}
IMPLICIT = {"__file__", "__name__", "__doc__", "__builtins__", "__spec__", "__path__"}


def undefined_names(source: str, path: str) -> set[str]:
    top = symtable.symtable(source, path, "exec")
    bound, used = set(dir(builtins)) | IMPLICIT, set()

    def visit(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            if table is top or symbol.is_declared_global():
                if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                    bound.add(symbol.get_name())
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    visit(top)
    return used - bound


class Class:
    """A class of ours: what it defines, and what its fields and results are as far as annotations or calls tell."""

    def __init__(self, module: "Module", node: ast.ClassDef):
        self.module, self.node, self.name = module, node, node.name
        self.names: set[str] = set()
        self.annotations: dict[str, ast.expr] = {}  # of fields, and of the results of methods
        self.assigned: dict[str, list] = defaultdict(list)  # field -> (value, method) of each assignment in the class
        self.methods: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.subclasses: list[Class] = []
        for child in ast.walk(node):
            if child is node:
                continue
            if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                self.names.add(child.name)
            elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                self.names.add(child.id)  # locals of methods, too: few, and harmless
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                self.names.add(child.value)  # __slots__, setattr(self, "name", ...)
        for child in node.body:
            if isinstance(child, FUNCTIONS):
                self.methods[child.name] = child
                self._fields_of(child)
            elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                self.annotations[child.target.id] = child.annotation

    def _fields_of(self, method) -> None:
        me = self_of(method)
        for node in ast.walk(method):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == me:
                    self.names.add(node.attr)
                    self.assigned[node.attr].append((None, method))
        for node in ast.walk(method):
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == me:
                    if isinstance(node, ast.AnnAssign):
                        self.annotations[target.attr] = node.annotation
                    elif isinstance(node, ast.Assign):
                        self.assigned[target.attr].remove((None, method))
                        self.assigned[target.attr].append((node.value, method))

    def field(self, name: str) -> "list[Class]":
        """The classes that an attribute can have; none where that is not known."""
        for one in self.ancestors():
            method = one.methods.get(name)
            if method is not None:
                decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
                return one.module.annotated(method.returns) if decorators & {"property", "cached_property"} else []
            if name in one.annotations:
                return one.module.annotated(one.annotations[name])
            if name in one.assigned:
                made = [(value, method) for value, method in one.assigned[name] if not is_none(value)]
                return common(classes_of(one.module, value, scope(one.module, method, None)) for value, method in made)
        return []

    def result(self, name: str) -> "list[Class]":
        for one in self.ancestors():
            method = one.methods.get(name)
            if method is not None:
                return one.module.annotated(method.returns) if isinstance(method, ast.FunctionDef) else []
        return []

    @cached_property
    def bases(self) -> "list[Class | type | None]":
        return [self.module.base(base) for base in self.node.bases]

    def ancestors(self) -> "list[Class]":
        return [self, *(found for base in self.bases if isinstance(base, Class) for found in base.ancestors())]

    def family(self) -> "list[Class]":
        """Itself, its bases, and its subclasses with their other bases: what a mixin may rely on."""
        below = [self]
        for one in below:
            below += [sub for sub in one.subclasses if sub not in below]
        return [found for one in below for found in one.ancestors()]

    @cached_property
    def known(self) -> set[str] | None:
        """All attributes there can be; None where that cannot be told."""
        found = set(dir(object))
        for one in self.family():
            if "__getattr__" in one.names or "__dict__" in one.names or None in one.bases:
                return None
            if (one.module.name, one.name) == ("refbroker.config", "Config"):
                found |= {key.attribute for key in KEYS} | one.names
                continue
            calls = (node.func for node in ast.walk(one.node) if isinstance(node, ast.Call))
            if any(isinstance(call, ast.Name) and call.id == "setattr" for call in calls):
                return None
            found |= one.names
            for base in one.bases:
                found |= set(dir(base)) if isinstance(base, type) else set()
                found |= {"name", "value", "_value2member_map_"} if isinstance(base, enum.EnumMeta) else set()
        return found


class Module:
    def __init__(self, project: "Project", name: str, source: str):
        self.project, self.name, self.source = project, name, source
        self.tree = ast.parse(source)
        self.classes = {node.name: Class(self, node) for node in self.tree.body if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in self.tree.body if isinstance(node, FUNCTIONS)}
        self.imports: dict[str, tuple[str, str | None]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    project.member(alias.name, None)  # so that a.b is an attribute of a
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    self.imports[alias.asname or whole] = whole, None
            elif isinstance(node, ast.ImportFrom):
                beside = f"{name.rpartition('.')[0]}.{node.module}"  # a program that is started in its own directory
                for alias in node.names:
                    origin = beside if beside in project.sources else node.module
                    self.imports[alias.asname or alias.name] = origin, alias.name
        self.names = {alias for alias in self.imports} | set(self.classes) | set(self.functions)
        names = (node for node in ast.walk(self.tree) if isinstance(node, ast.Name))
        self.names |= {node.id for node in names if isinstance(node.ctx, ast.Store)}

    def resolve(self, name: str):
        """The Class, Module, function or module of the standard library that a name of this module means, if known."""
        if name in self.classes or name in self.functions:
            return self.classes.get(name) or self.functions.get(name)
        if name not in self.imports:
            return None
        module, member = self.imports[name]
        return self.project.member(module, member)

    def base(self, node: ast.expr):
        if isinstance(node, ast.Name) and isinstance(getattr(builtins, node.id, None), type):
            return getattr(builtins, node.id)
        found = self.dotted(node)
        if found is typing.NamedTuple:
            return typing.NamedTuple("Any", [])
        return found if isinstance(found, (Class, type)) else None

    def dotted(self, node: ast.expr):
        if isinstance(node, ast.Name):
            return self.resolve(node.id)
        if isinstance(node, ast.Attribute):
            of = self.dotted(node.value)
            if isinstance(of, Module):
                return of.resolve(node.attr)
            return getattr(of, node.attr, None) if isinstance(of, types.ModuleType) else None
        return None

    def called(self, argument: ast.arg) -> list[Class]:
        """The class of a parameter that is known by its name alone, as its module may not import the class."""
        if not self.name.startswith("refbroker.") or argument.annotation and ast.unparse(argument.annotation) != "Any":
            return []
        module, _, name = BY_NAME.get(argument.arg, "").rpartition(".")
        found = self.project.member(module, name) if module else None
        return [found] if isinstance(found, Class) else []

    def annotated(self, node: ast.expr | None) -> list[Class]:
        """The classes of ours in an annotation; none where it is anything else, too."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.annotated(ast.parse(node.value, mode="eval").body)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            left, right = self.annotated(node.left), self.annotated(node.right)
            return left + right if (left or is_none(node.left)) and (right or is_none(node.right)) else []
        found = self.dotted(node) if node is not None else None
        return [found] if isinstance(found, Class) else []


class Project:
    """All sources, by the name of their module."""

    def __init__(self, sources: dict[str, str]):
        self.sources = sources
        self.modules: dict[str, Module] = {}
        self.modules = {name: Module(self, name, source) for name, source in sources.items()}
        self.loose = set()  # attributes that are set from outside the class, somewhere
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                        self.loose.add(node.attr)
            for one in module.classes.values():
                for base in one.bases:
                    if isinstance(base, Class):
                        base.subclasses.append(one)

    def member(self, module: str, member: str | None):
        if module in self.sources or f"{module}.{member}" in self.sources:
            if member is not None and f"{module}.{member}" in self.modules:
                return self.modules[f"{module}.{member}"]
            found = self.modules.get(module)
            return found if member is None else found.resolve(member) if found else None
        if module.split(".")[0] not in sys.stdlib_module_names:
            return None
        found = importlib.import_module(module)
        return found if member is None else getattr(found, member, None)

    def missing(self, name: str) -> set[str]:
        module = self.modules[name]
        found = {f"{name}: {unknown}" for unknown in undefined_names(module.source, name)}
        for origin, member in module.imports.values():
            there = self.modules.get(origin)
            if there and member and member not in there.names and f"{origin}.{member}" not in self.modules:
                found.add(f"{name}: {member} of {origin}")
        return found | Attributes(module).missing


class Attributes(ast.NodeVisitor):
    """Walks one module and collects the attributes that nothing defines."""

    def __init__(self, module: Module):
        self.module, self.missing = module, set()
        self.inside: list[Class | None] = []
        self.local: dict[str, list[Class]] = {}  # what functions around bind; [] where the class is not known
        self.visit(module.tree)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.inside.append(self.module.classes.get(node.name))
        self.generic_visit(node)
        self.inside.pop()

    def visit_FunctionDef(self, node) -> None:
        before, around = self.local, self.inside
        self.local = before | scope(self.module, node, around[-1] if around else None)
        self.inside = []  # a function in a method has another `self`, if any
        self.generic_visit(node)
        self.local, self.inside = before, around

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        dunder = node.attr.startswith("__")
        if dunder or not isinstance(node.ctx, ast.Load) or node.attr in self.module.project.loose:
            return
        classes = classes_of(self.module, node.value, self.local)
        there = [one.known is None or node.attr in one.known for one in classes]
        if not classes and isinstance(node.value, ast.Name) and node.value.id not in self.local:
            of = self.module.resolve(node.value.id)
            if isinstance(of, Class):
                there = [of.known is None or node.attr in of.known | set(dir(type))]
            elif isinstance(of, Module):
                there = [node.attr in of.names | IMPLICIT or f"{of.name}.{node.attr}" in self.module.project.modules]
            elif isinstance(of, types.ModuleType):
                there = [hasattr(of, node.attr)]
        if there and not any(there):
            self.missing.add(f"{self.module.name}:{node.lineno}: {ast.unparse(node)}")


def self_of(method) -> str | None:
    """How a method calls its object; None for static and class methods."""
    decorators = {one.id for one in method.decorator_list if isinstance(one, ast.Name)}
    arguments = method.args.posonlyargs + method.args.args
    return arguments[0].arg if arguments and not decorators & {"staticmethod", "classmethod"} else None


def scope(module: Module, function, inside: Class | None) -> dict[str, list[Class]]:
    """Every name that is bound in the function, with its classes if it is bound once."""
    bound, imported = [], set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.append(node.id)
        elif isinstance(node, ast.arg):
            bound.append(node.arg)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and node is not function:
            bound.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imported |= {alias.asname or alias.name for alias in node.names}
    once = {name for name in bound if bound.count(name) == 1}
    found: dict[str, list[Class]] = {name: [] for name in bound if name not in imported}
    args = function.args
    for argument in args.posonlyargs + args.args + args.kwonlyargs:
        if argument.arg in once:
            found[argument.arg] = module.annotated(argument.annotation) or module.called(argument)
    if inside is not None and self_of(function) in once:
        found[self_of(function)] = [inside]
    for node in ast.walk(function):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in once:
            found[target.id] = classes_of(module, node.value, found)
    return found


def classes_of(module: Module, node: ast.expr | None, local: dict[str, list[Class]]) -> list[Class]:
    """The classes of ours that an expression can have; none where that is not known."""
    if isinstance(node, ast.Name):
        return local.get(node.id, [])
    if isinstance(node, ast.Attribute):
        return common(one.field(node.attr) for one in classes_of(module, node.value, local))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in local:
        made = module.resolve(node.func.id)
        return [made] if isinstance(made, Class) else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return common(one.result(node.func.attr) for one in classes_of(module, node.func.value, local))
    return []


def common(answers) -> list[Class]:
    """All of them; none where one is not known."""
    answers = list(answers)
    return [one for answer in answers for one in answer] if all(answers) else []


def is_none(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def ours() -> dict[str, str]:
    paths = [path for top in OURS for path in sorted((ROOT / top).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: path.read_text() for name, path in zip(names, paths)}


def test_every_name_is_there():
    project = Project(ours())
    assert len(project.modules) > 250
    assert not sorted(problem for name in project.modules for problem in project.missing(name))


PLANTED = {  # what the test must say -> the lines that are added to INNOCENT
    "BadPlan": "try: pass\nexcept (ValueError, BadPlan): pass",
    "plan": "def use():\n    def plan(): pass\ndef other(): return plan",
    "gone of refbroker.there": "from refbroker.there import gone",
    "there.gone": "from refbroker import there\ndef use(): return there.gone()",
    "errno.EGONE": "import errno\ndef use(error): return error.errno == errno.EGONE",
    "self.gone": "class Sub(Segment):\n    def use(self): return self.gone()",
    "self.index.position_after": "class Sub(Segment):\n    def use(self): return self.index.position_after(1)",
    "self.maybe.gone": "class Sub(Segment):\n    def use(self): return self.maybe.gone",
    "one.gone": "def use(one: 'Segment | None'): return one.gone",
    "made.gone": "def use():\n    made = Index()\n    return [made.gone for _ in made.names]",
    "one.first.gone": "def use(one: Segment): return one.first.gone",
    "one.find().gone": "def use(one: Segment): return one.find().gone",
    "Code.GONE": "def use(): return Code.GONE",
    "pair.gone": "def use(pair: Pair): return pair.gone",
    "broker.gone": "def use(broker): return broker.gone",
    "config.log_gone": "from refbroker.config import Config\ndef use(config: Config): return config.log_gone",
}

INNOCENT = """
import errno, os.path
from enum import IntEnum
from typing import NamedTuple
from refbroker.there import Index as Index, Mixin
class Code(IntEnum):
    NONE = 0
class Pair(NamedTuple):
    left: int
    right: Index
class Segment(Mixin):
    def __init__(self, other: Index, any):
        self.index = Index(self, 1)
        self.maybe = None
        self.given = other
        self.any = any
        self.maybe = Index(self, 2)
    @property
    def first(self) -> Index: return self.index
    def find(self) -> Index: return self.index
    def mixed(self): return self.any.gone, self.first.names, self.find().__dict__
class Special(Segment):
    def special(self): return 1
def use(one: Segment, pair: Pair, outside: Index, code: Code, broker):
    outside.set_here = 1
    again = Index()
    again = one
    broker.config.num_partitions, os.path.join, errno.EIO
    return one.special(), pair._replace, code.name, Code["NONE"].value, again.any, outside.set_here, [errno.anything for errno in ()]
"""


def planted(lines: str) -> set[str]:
    there = "class Index:\n    names = ()\nclass Mixin:\n    def mix(self): return self.mixed()\n"
    sources = {name: source for name, source in ours().items() if name in ("refbroker.broker", "refbroker.config")}
    return Project(sources | {"refbroker.there": there, "refbroker.here": INNOCENT + lines}).missing("refbroker.here")


@pytest.mark.parametrize("wanted", PLANTED)
def test_what_is_planted_is_found(wanted):
    (found,) = planted(PLANTED[wanted])
    assert found.endswith(wanted)


def test_nothing_else_is_found():
    assert planted("") == set()
