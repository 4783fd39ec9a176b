"""Stand-ins for torch and packages that import it, so that methods' settings can be read without torch.

A method's file holds its settings and its computation. Importing it imports torch, which takes seconds; validating its
block of params.yaml needs no torch. With the stand-ins ``import torch`` gives a module in which every name is an empty
class: enough for annotations, base classes and decorators, not for computing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = ("torch", "torchvision", "torch_pruning", "safetensors")


class _Anything(type):
    """The metaclass of classes whose attributes are again such classes."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _class(name)


def _class(name: str) -> type:
    return _Anything(name, (_StandIn,), {})


class _StandIn(metaclass=_Anything):
    def __init__(self, *args: object, **kwargs: object):
        pass

    def __getattr__(self, name: str) -> type:
        return getattr(type(self), name)

    def __call__(self, function: object = None, *args: object, **kwargs: object) -> object:
        return function  # as a decorator it returns the decorated function


class _Module(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _class(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def for_torch() -> Iterator[None]:
    """Inside the block ``PACKAGES`` are stand-ins; project modules imported inside are removed from ``sys.modules``."""
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in (*PACKAGES, "prunus"):
                del sys.modules[name]
                package, _, module = name.rpartition(".")
                if package in sys.modules:
                    vars(sys.modules[package]).pop(module, None)  # `from package import module` looks here first


def without_torch(call: Callable, *arguments: Any) -> Any:
    """``call(*arguments)`` with the stand-ins; if that fails, again with torch itself: some methods' files compute when
    they are imported."""
    try:
        with for_torch():
            return call(*arguments)
    except Exception:
        return call(*arguments)
