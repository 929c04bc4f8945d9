"""The library's public names and their signatures; `python -m tests.breaker.public_names` writes the list."""

import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol

import commontrip

COMMITTED = Path(__file__).with_suffix(".txt")


def modules() -> list[ModuleType]:
    """Return the package and its public modules."""
    names = [module.name for module in pkgutil.iter_modules(commontrip.__path__) if not module.name.startswith("_")]
    return [commontrip, *(importlib.import_module(f"commontrip.{name}") for name in sorted(names))]


def public() -> Iterator[tuple[str, object]]:
    """Yield every public name of every public module, and every public member of every public class."""
    for module in modules():
        for name, value in _names(module):
            full = f"{module.__name__}.{name}"
            yield full, value
            if inspect.isclass(value):
                yield from ((f"{full}.{member}", found) for member, found in _members(value))


def describe() -> str:
    """Return one line for each public name, sorted."""
    return "\n".join(sorted(f"{name}{_signature(value)}" for name, value in public())) + "\n"


def _names(module: ModuleType) -> Iterator[tuple[str, object]]:
    if module is commontrip:
        yield from ((name, getattr(module, name)) for name in module.__all__)
        return
    for name, value in vars(module).items():
        ours = getattr(value, "__module__", None) == module.__name__
        if ours and not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


def _members(owner: type) -> Iterator[tuple[str, object]]:
    if issubclass(owner, enum.Enum):
        yield from owner.__members__.items()
        return
    for name, value in vars(owner).items():
        plain = getattr(value, "__func__", value)  # what a classmethod or a staticmethod wraps
        if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(value, property)):
            yield name, plain


def _signature(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f" = {value.value!r}"
    if isinstance(value, property):
        return ""
    if inspect.isclass(value) and ("__init__" not in vars(value) or issubclass(value, (enum.Enum, Protocol))):
        return ""
    text = str(inspect.signature(value))
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = text.replace("'RedisStore'", "RedisStore")
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=~?[A-Za-z])", "", text)  # where a name comes from may change


if __name__ == "__main__":
    COMMITTED.write_text(describe())
