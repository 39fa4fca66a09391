"""The errors a run can end with, named for what happens next.

RaftError
|- ConfigError    a person must change the settings; nothing was started
|- InputError     a table or source is missing or has another shape; nothing was written
`- EndpointError  the endpoint refuses the whole job; what was paid for is stored

A failed row is no error: it is a row with its reason (see completions and the quarantine tables).
"""


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
