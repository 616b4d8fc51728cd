"""The one error type that users can cause and mend."""


class FastFluxError(Exception):
    """An error the user can cause and mend; its message says how."""
