"""Whether what stands in a node's widgets can be: answered once and in words, for values typed and for values wired."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import wraps
from numbers import Real
from typing import Any, TypeVar

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..common.errors import LONGEST_NAME, no_option, quoted
from .wires import wire_problem

Node = TypeVar("Node", bound=type[io.ComfyNode])
Judge = Callable[..., str | None]
LONGEST_TEXT = 10_000  # characters of a text widget


def validation(judge: Judge | None = None, *names: str) -> Callable[[Node], Node]:
    """A class decorator: the node refuses what its widgets cannot be, when it is queued and when it runs.

    Every number is held to its widget's range, every choice to its options. The host's own checks are off for all
    inputs that a node judges, know no NaN, and see no value that comes by a wire.

    judge: what is wrong with the values of the inputs `names`, in their order, in words; None if nothing is. A value
        that is not known yet is None there; it is not asked if all are. The choices among them are its own to check.
    """

    def decorate(node: Node) -> Node:
        execute = vars(node)["execute"].__func__
        signature = inspect.signature(execute)

        def problem(values: Mapping[str, Any], running: bool) -> str | None:
            found, known = input_problem(node, values, names, running), [values.get(name) for name in names]
            if found is not None or judge is None or all(value is None for value in known):
                return found
            return judge(*known)

        def validate_inputs(cls, **values):
            found = problem(_not_refused(node, values), running=False)
            return True if found is None else Refusal(found)

        @wraps(execute)
        def checked_execute(cls, *args, **inputs):
            found = problem(_by_name(signature.bind(cls, *args, **inputs)), running=True)
            if found is not None:
                raise ValueError(found)
            return execute(cls, *args, **inputs)

        made: Any = node
        made.validate_inputs, made.execute = classmethod(validate_inputs), classmethod(checked_execute)
        if "check_lazy_status" in vars(node):
            made.check_lazy_status = _checked_lazily(node, problem)
        return node

    return decorate


def _checked_lazily(node: Node, problem: Callable[[Mapping[str, Any], bool], str | None]) -> Any:
    """`check_lazy_status` of a node, which has nothing loaded for values that `execute` will refuse in words."""
    ask = vars(node)["check_lazy_status"].__func__

    @wraps(ask)
    def checked(cls, **inputs):
        return [] if problem(inputs, True) is not None else ask(cls, **inputs)

    return classmethod(checked)


class Refusal:
    """What is wrong with a node's widgets, in words that the host shows once.

    The host repeats what `validate_inputs` answers for every input of the node, and passes over an ExecutionBlocker:
    this is a sentence until it was read, and such a blocker from then on.
    """

    def __init__(self, words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        read: Any = self
        read.__class__ = _ReadRefusal
        return self.words


class _ReadRefusal(ExecutionBlocker):
    words: str


def input_problem(
    node: type[io.ComfyNode], values: Mapping[str, Any], judged: tuple[str, ...], running: bool
) -> str | None:
    """What is outside its widget's range or options, or nothing for its socket, in words; None if nothing is.

    values: by input; inputs without one are passed over. judged: choices that may be others than the widget offers.
    running: False before the prompt runs, when what will come by a wire is None.
    """
    return _first_problem(node.FINALIZE_SCHEMA().inputs, values, judged, running)


def _first_problem(
    entries: list[io.Input], values: Mapping[str, Any], judged: tuple[str, ...], running: bool
) -> str | None:
    for entry in entries:
        # The host leaves a dynamic list out where it has no such choice.
        there = entry.id in values or isinstance(entry, io.DynamicCombo.Input)
        if there and (found := _problem(entry, values.get(entry.id), entry.id in judged, running)):
            return found
    return None


def _dynamic_problem(widget: io.DynamicCombo.Input, value: Any, running: bool) -> str | None:
    """Of a list whose choices have inputs of their own: {its name: the choice, their names: their values}."""
    own = value if isinstance(value, Mapping) else {}
    chosen = next((option for option in widget.options if option.key == own.get(widget.id)), None)
    if chosen is None:
        return f"{widget.id} is none of its choices; it can be {', '.join(option.key for option in widget.options)}."
    return _first_problem(chosen.inputs, own, (), running)


def _problem(entry: io.Input, value: Any, judged: bool, running: bool) -> str | None:
    if isinstance(entry, io.DynamicCombo.Input):
        return _dynamic_problem(entry, value, running)
    if isinstance(entry, io.Int.Input | io.Float.Input):
        return _number_problem(entry, value)
    if isinstance(entry, io.Combo.Input):
        return _choice_problem(entry, value, judged)
    if isinstance(entry, io.Boolean.Input):
        return _switch_problem(entry, value)
    return _text_problem(entry, value) if isinstance(entry, io.String.Input) else wire_problem(entry, value, running)


def _number_problem(widget: io.Int.Input | io.Float.Input, value: Any) -> str | None:
    low, high = widget.min, widget.max
    allowed = f"it can be {quoted(low)} to {quoted(high)}"
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"{widget.id} is {quoted(value)}, which is no number; {allowed}."
    if not low <= value <= high:
        return f"{widget.id} is {quoted(value)}; {allowed}."
    if isinstance(widget, io.Int.Input) and math.trunc(value) != value:
        return f"{widget.id} is {quoted(value)}; it must be a whole number, and {allowed}."
    return None


def _choice_problem(widget: io.Combo.Input, value: Any, judged: bool) -> str | None:
    options = [str(option) for option in widget.options or ()]
    if isinstance(value, str) and (value in options or (judged and len(value) <= LONGEST_NAME)):
        return None
    return no_option(widget.id, value, options)


def _switch_problem(widget: io.Boolean.Input, value: Any) -> str | None:
    if isinstance(value, Real) and value in (0, 1):
        return None
    return f"{widget.id} is {quoted(value)}; it can be true or false."


def _text_problem(widget: io.String.Input, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{widget.id} is {quoted(value)}; it must be text."
    if len(value) > LONGEST_TEXT:
        return f"{widget.id} has {len(value)} characters; it can have {LONGEST_TEXT}."
    return None


def _not_refused(node: type[io.ComfyNode], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a prompt that are known, without those that the host refuses itself: broken wires, and what it
    could not make a number of."""
    entries = node.FINALIZE_SCHEMA().inputs
    inputs = [one for entry in entries for one in entry.get_all()]
    numbers = {entry.id for entry in inputs if isinstance(entry, io.Int.Input | io.Float.Input)}

    def known(given: Mapping[str, Any]) -> dict[str, Any]:
        there = {name: value for name, value in given.items() if not isinstance(value, list) and value is not None}
        return {name: value for name, value in there.items() if name not in numbers or isinstance(value, Real)}

    brought = {entry.id: values.get(entry.id) for entry in entries if isinstance(entry, io.DynamicCombo.Input)}
    return known({**values, **{name: known(own) for name, own in brought.items() if isinstance(own, Mapping)}})


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments of a call by their names, those of a ** parameter too."""
    values = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            values |= values.pop(parameter.name, {})
    return values
