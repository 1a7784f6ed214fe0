"""Torch-free, as the command line must know it whatever it runs."""


class TrainError(RuntimeError):
    """A run that ended before its last step; what has been committed stays."""
