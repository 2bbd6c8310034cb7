"""Messages say what was found, what was expected and what to do."""

from __future__ import annotations

import inspect

import pytest

from cyclevar.core import errors
from cyclevar.core.errors import ConfigError, CyclevarError, UnknownNameError


def test_the_message_joins_problem_expectation_and_hint() -> None:
    error = ConfigError("steps is 0.", expected="a positive number", hint="leave it out")
    assert str(error) == "steps is 0; expected a positive number; leave it out."
    assert (error.problem, error.expected, error.hint) == ("steps is 0.", "a positive number", "leave it out")
    assert str(CyclevarError("it is full")) == "it is full."


def test_an_unknown_name_offers_the_nearest_and_lists_all() -> None:
    error = UnknownNameError("backbone", "vra", ["var", "infinity"])
    assert str(error) == "there is no backbone named 'vra'; expected one of infinity, var; did you mean 'var'?"
    assert (error.kind, error.name, error.known) == ("backbone", "vra", ["infinity", "var"])
    assert "did you mean" not in str(UnknownNameError("backbone", "zzz", ["var"]))
    assert "none is registered" in str(UnknownNameError("backbone", "var", []))


def _is_exception(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseException)


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(errors, _is_exception)])
def test_every_error_is_in_the_tree_and_in_its_drawing(name: str) -> None:
    assert issubclass(getattr(errors, name), CyclevarError)
    assert name in (errors.__doc__ or "")
    assert getattr(errors, name).exit_code == 2


def test_errors_go_from_process_to_process() -> None:
    import pickle

    error = UnknownNameError("preset", "d17", ["d16", "d20"])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UnknownNameError
    assert (str(copy), copy.name, copy.known, copy.hint) == (str(error), "d17", ["d16", "d20"], error.hint)
