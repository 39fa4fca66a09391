"""The errors a run can end with, named for what happens next.

RaftError
|- ConfigError    a person must change the settings; nothing was started
|- InputError     a table or source is missing or has another shape; nothing was written
|- EndpointError  the endpoint refuses the whole job; what was paid for is stored
|- StoppedError   a signal or a limit of time or money stopped the run; what was paid for is stored, and a rerun goes on
|- GateError      a refresh made versions that readers must not get; they have the ones before
|- RunError       a run on EMR Serverless or a training failed, or went out of sight; what it stored stands
`- CatalogError   the lake is published, its tables in the catalog are behind; the next run follows again

A failed row is no error: it is a row with its reason (see completions and the quarantine tables).
"""

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


class RaftError(Exception):
    """What the command line prints in one sentence and turns into an exit status."""

    exit_status = 1


class ConfigError(RaftError):
    """A person must change the settings; nothing was started."""

    exit_status = 2


class InputError(RaftError):
    """A table or a source is missing or has another shape; nothing was written."""

    exit_status = 3


class EndpointError(RaftError):
    """The endpoint refuses the whole job; what was paid for is stored."""

    exit_status = 4


class StoppedError(RaftError):
    """A signal or a limit stopped the run; what was paid for is stored, and the same command goes on from here."""

    exit_status = 5


class GateError(RaftError):
    """A refresh made versions that readers must not get; they have the ones before."""

    exit_status = 6


class RunError(RaftError):
    """A run on EMR Serverless, a training, a hosting or its command failed, or went out of sight; what it stored stands."""

    exit_status = 7


class CatalogError(RaftError):
    """The lake is published, its tables in the catalog are behind; the next run follows again."""

    exit_status = 8
