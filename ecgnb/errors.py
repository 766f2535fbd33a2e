"""The one exception for what a user can cause: a clear sentence and the fix."""


class UserError(Exception):
    """A mistake in a parameter, a setting or the data; its text says what is wrong and what to do.

    The command line prints the text alone and exits with status 2.
    """
