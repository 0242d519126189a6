"""The one exception for mistakes that the person at the keyboard can put right."""


class UserError(Exception):
    """Bad input or a bad setting: the message says what is wrong, where, and what to do.

    Entry points print the message without a traceback and exit with code 2.
    """
