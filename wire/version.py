"""The version of this build, as every process tells it; that of the contract is `wire.ids.PROTOCOL_VERSION`."""

VERSION = "0.1.0"
"""The same as `sparsync.__version__`, which may not be read below it."""
