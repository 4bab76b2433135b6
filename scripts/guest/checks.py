"""Checks, the suites they belong to, and how one is run."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .device import Device
from .errors import CheckFailed, Unavailable, UsageError
from .image import BASE_MODULES
from .lab import Lab, Settings
from .report import Report


@dataclass(frozen=True)
class Check:
    """A named function; its docstring says in a sentence what must hold."""

    name: str
    function: Callable[[Lab], None]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True)
class Suite:
    """A device kind and its checks, in the order in which they run."""

    device: Device
    checks: tuple[Check, ...]


def select(suites: Sequence[Suite], devices: str, names: str) -> list[tuple[Suite, Check]]:
    """Returns the checks of these devices and names: lists with commas, empty for all."""
    kinds = [suite.device.name for suite in suites]
    known = [check.name for suite in suites for check in suite.checks]
    wanted_kinds = _parse(devices, kinds, "device")
    wanted = _parse(names, known, "check")
    return [
        (suite, check) for suite in suites if suite.device.name in wanted_kinds
        for check in suite.checks if check.name in wanted
    ]


def _parse(text: str, known: list[str], what: str) -> list[str]:
    chosen = [name for name in text.replace(",", " ").split() if name] or known
    for name in chosen:
        if name not in known:
            raise UsageError(f"no {what} is called {name}; there are: {' '.join(known)}")
    return chosen


def modules_of(suites: Sequence[Suite]) -> list[str]:
    """Returns the kernel modules that guests for these suites load."""
    drivers = [module for suite in suites for module in suite.device.modules]
    return list(dict.fromkeys((*BASE_MODULES, *drivers)))


def run(suite: Suite, check: Check, daemon: Path, settings: Settings, report: Report) -> None:
    """Runs a check. Whatever it raises becomes a line of the report."""
    report.current = check.name
    lab = Lab(check.name, suite.device, daemon, settings, report)
    try:
        check.function(lab)
    except Unavailable as reason:
        report.skips(str(reason))
    except CheckFailed as reason:
        report.fails(str(reason))
        for line in lab.last_words():
            print(f"      {line}", flush=True)
    except Exception as error:  # a fault of the harness must not hide the other checks
        report.fails(f"the check itself broke: {type(error).__name__}: {error}")
        traceback.print_exc()
