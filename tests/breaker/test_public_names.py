"""The public surface: changed on purpose only, and documented."""

import inspect

import pytest

import commontrip
from tests.breaker import public_names


def test_public_names_are_the_committed_ones() -> None:
    """No name, argument or default of the public surface changes unnoticed.

    After a wanted change: `python -m tests.breaker.public_names`.
    """
    assert public_names.describe().splitlines() == public_names.COMMITTED.read_text().splitlines()


def test_names_are_sorted() -> None:
    """`__all__` is in order and names nothing twice."""
    assert commontrip.__all__ == sorted(set(commontrip.__all__))


@pytest.mark.parametrize(("name", "value"), sorted(public_names.public(), key=lambda pair: pair[0]))
def test_every_public_name_has_a_docstring(name: str, value: object) -> None:
    """Every public class, function, method and property says what it promises."""
    documented = type(value) if name.startswith("commontrip.") and not _is_code(value) else value
    text = inspect.getdoc(documented)
    assert text, name
    assert text[0].isupper() or text[0] in "`'\"", name


@pytest.mark.parametrize("module", public_names.modules(), ids=lambda module: module.__name__)
def test_every_public_module_has_a_docstring(module: object) -> None:
    """Every public module says what it is for."""
    assert inspect.getdoc(module)


def _is_code(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property)
