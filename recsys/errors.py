"""The exceptions that the engine raises on purpose: one small tree, so that a caller can catch the root."""


class RecsysError(Exception):
    """Root of every error that the engine raises on purpose. The message names what to change."""


class DataError(RecsysError):
    """A log, a Dataset or a table breaks its contract: the message names the file, field and value."""


class WindowError(DataError):
    """A window of a log holds nothing to judge by, or the log is too short for one."""


class ConfigError(RecsysError):
    """A configuration is not valid: the message names the key and the value."""


class ModelError(RecsysError):
    """A model was used before it was fitted, or its training failed: the message says at which step."""


class BundleError(RecsysError):
    """A bundle is damaged, incomplete, mixed or of an unknown version, and was refused before use."""
