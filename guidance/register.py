"""Register: finds by itself every class that a package of one-file entries declares."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Register(Generic[T]):
    """Classes by name. A file placed in the package is found; nothing else has to be edited.

    Args:
        kind: what an entry is, in words, for messages.
        package: the full name of the package whose files declare entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._known: dict[str, type[T]] = {}

    def __call__(self, name: str) -> Callable[[C], C]:
        """Class decorator: enter a class under its name. Raises ValueError if the name is taken."""

        def enter(cls: Any) -> Any:
            if name in self._known:
                raise ValueError(
                    f"There is a {self.kind} {name!r} already, in {self._known[name].__module__}; {cls.__module__} "
                    f"must choose another name."
                )
            cls.name = name
            self._known[name] = cls
            return cls

        return enter

    def all(self) -> dict[str, type[T]]:
        """Every entry of the package, by name."""
        package = importlib.import_module(self.package)
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{package.__name__}.{module}")
        return dict(sorted(self._known.items()))
