"""Define the errors that end a run, one class for each thing that a person has to do next.

RaftError
|- ConfigError    the settings or the installation are wrong; nothing was started
|- InputError     a table or a source is missing or has another shape, or the lake cannot be written; nothing was published
|  `- DamageError   a file of the lake is not as it was written
|- EndpointError  the endpoint refuses, does not answer or failed too often; answers that were paid for are stored
|- StoppedError   a signal, a limit of time or money, or another run stopped the run; the same command continues it
|- GateError      a gate of a refresh failed; readers keep the versions that they had
|- RunError       a job on EMR Serverless, a training or a hosting failed, or its state is unknown
`- CatalogError   the lake is published, but its Iceberg catalog is not up to date; the next run updates it

A row that fails raises no error: it is stored with its reason (see completions and the quarantine).
"""

INTERRUPTED = 130  # exit status of a command that Ctrl-C ended


class RaftError(Exception):
    """The base of all errors; the command line prints the message and exits with `exit_status`."""

    exit_status = 1


class ConfigError(RaftError):
    """The settings or the installation are wrong; nothing was started. Correct what the message names."""

    exit_status = 2


class InputError(RaftError):
    """A table or a source is missing or has another shape, or the lake cannot be written; nothing was published."""

    exit_status = 3


class DamageError(InputError):
    """A file of the lake is damaged or missing. Restore it, or make its version again."""


class EndpointError(RaftError):
    """The endpoint refuses requests, does not answer or failed too often; answers that were paid for are stored."""

    exit_status = 4


class StoppedError(RaftError):
    """A signal, a limit of time or money, or another run that asks stopped the run; answers paid for are stored.

    The same command continues from there.
    """

    exit_status = 5


class GateError(RaftError):
    """A gate of a refresh failed; readers keep the versions that they had."""

    exit_status = 6


class RunError(RaftError):
    """A job on EMR Serverless, a training or a hosting failed, or its state is unknown; what it stored is kept."""

    exit_status = 7


class CatalogError(RaftError):
    """The lake is published, but its Iceberg catalog is not up to date; the next run of any stage updates it."""

    exit_status = 8
