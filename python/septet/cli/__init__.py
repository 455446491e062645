"""The ``septet`` command."""
