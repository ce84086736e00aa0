"""What can be explored: the designs, scenarios and properties that ship, and a user's own.

A user's file is Python that is run, as a test file is. Whatever it defines at its top level that
is a subclass of a design, a ``Scenario`` or a ``Property`` is taken in.
"""

import contextlib
import functools
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from memreap.mm.designs import DESIGNS
from memreap.mm.kernel import Kernel
from memreap.mm.properties import PROPERTIES, Property
from memreap.mm.scenarios import SCENARIOS, Scenario


class BadSourceError(ValueError):
    """A user's file cannot be used; the message says why, and where."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Everything by name. ``own``: the designs and scenarios that come from the user's file.

    ``own_properties`` are asked in every scenario.
    """

    designs: dict[str, type[Kernel]]
    scenarios: dict[str, Scenario]
    properties: dict[str, Property]
    source: str | None = None
    own: frozenset[str] = frozenset()
    own_properties: tuple[Property, ...] = ()


@functools.cache
def subjects(source: str | None = None) -> Subjects:
    """What ships, and what ``source`` adds to it. Raises BadSourceError."""
    if source is None:
        return Subjects(DESIGNS, SCENARIOS, PROPERTIES)
    module = _load(source)
    own = [value for value in vars(module).values() if not isinstance(value, ModuleType)]
    designs = {
        value.name: value
        for value in own
        if isinstance(value, type)
        and issubclass(value, Kernel)
        and value.__module__ == module.__name__
    }
    scenarios = {value.name: value for value in own if isinstance(value, Scenario)}
    properties = {value.name: value for value in own if isinstance(value, Property)}
    if not designs and not scenarios and not properties:
        raise BadSourceError(
            f"{source} defines no design (a subclass of one, such as"
            " memreap.mm.kernel.Kernel), no Scenario and no Property"
        )
    for name, kernel in designs.items():
        if name in DESIGNS:
            raise BadSourceError(f"{source}: {kernel.__name__} needs a name of its own: {name!r}")
    return Subjects(
        {**DESIGNS, **designs},
        {**SCENARIOS, **scenarios},
        {**PROPERTIES, **properties},
        source,
        frozenset({*designs, *scenarios}),
        tuple(properties.values()),
    )


def _load(source: str) -> ModuleType:
    """Run the file. A module of that file alone, whatever it is called."""
    path = Path(source)
    spec = importlib.util.spec_from_file_location(f"memreap_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadSourceError(f"{source} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with blamed(source):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def blamed(source: str | None) -> Iterator[None]:
    """Whatever goes wrong in here is the user's file's fault: a BadSourceError says where.

    Without such a file it is ours, and goes on its way.
    """
    try:
        yield
    except (KeyboardInterrupt, BadSourceError):
        raise
    except BaseException as error:  # sys.exit() at the top of a file too
        if source is None:
            raise
        if isinstance(error, SyntaxError) and error.lineno:
            where, what = f"{source}:{error.lineno}", error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(Path(source))]
            where, what = f"{source}:{lines[-1]}" if lines else source, str(error)
        raise BadSourceError(f"{where}: {type(error).__name__}: {what}") from error
