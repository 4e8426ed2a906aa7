"""Every error of the package: one root, so that ``except WorkbenchError`` catches what we mean to raise.

WorkbenchError
├── ConfigError        a setting, parameter or profile that cannot be used
├── EvalsetError       files of an evalset that cannot be used; carries every defect found
├── TenantError        a tenant that is missing, malformed or not the handle's own
├── StoreError         a table, index or filter that is not what was asked for
├── WeightsError       model files that are absent or not the pinned ones
├── ProviderError      a model or a model provider that did not answer as promised
├── RunError           a notebook run that did not end as it should
└── GateFailed         an accepted decision no longer holds

A message says what was asked, what was found and what to do next; the numbers are attributes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class WorkbenchError(Exception):
    """Root of the package's own errors."""


class ConfigError(WorkbenchError):
    """A setting, parameter or profile cannot be used."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong with one place of a file; ``line`` is 0 where the whole file is meant."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}" if self.line else f"{self.file}: {self.problem}"


class EvalsetError(WorkbenchError):
    """The files of an evalset cannot be used; ``defects`` lists each place."""

    def __init__(self, message: str, defects: Sequence[Defect] = ()) -> None:
        self.defects = tuple(defects)
        shown = "".join(f"\n  {defect}" for defect in self.defects[:20])
        more = len(self.defects) - 20
        super().__init__(message + shown + (f"\n  ... and {more} more" if more > 0 else ""))


class TenantError(WorkbenchError):
    """A tenant is missing, malformed, or not the one that the handle is bound to."""


class StoreError(WorkbenchError):
    """A table, index, row or filter is not what was asked for."""


class WeightsError(WorkbenchError):
    """Model files are absent, or are not the pinned ones."""


class ProviderError(WorkbenchError):
    """A model or a model provider did not answer as promised."""


class RunError(WorkbenchError):
    """A notebook run did not end as it should; ``run_dir`` holds what there is."""

    def __init__(self, message: str, run_dir: str = "") -> None:
        self.run_dir = run_dir
        super().__init__(message)


class GateFailed(WorkbenchError):
    """An accepted decision no longer holds; ``status`` is the gate's, ``exit_code`` the shell's."""

    def __init__(self, message: str, *, status: str, exit_code: int) -> None:
        self.status, self.exit_code = status, exit_code
        super().__init__(message)


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """Sentence for a name that is not known, with the nearest that is.

    >>> unknown_name("parameter", "margn", ["margin", "seed"])
    "unknown parameter 'margn'; did you mean 'margin'? Known: margin, seed"
    """
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(known))}"
