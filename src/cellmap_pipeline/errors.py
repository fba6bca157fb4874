"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """Something in the configuration or the data that the user can put right.

    The message stands alone: it names the file or the key, says what is wrong and what to do.
    """
