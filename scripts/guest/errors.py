"""What stops a check or the whole run."""


class CheckFailed(Exception):
    """The check cannot go on; counted as a failure."""


class Unavailable(Exception):
    """This machine lacks something; counted as skipped. The message says how to get it."""


class UsageError(Exception):
    """The command line asks for something impossible; the run ends with exit code 2."""
