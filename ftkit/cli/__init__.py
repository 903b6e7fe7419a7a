"""The command line: `ftkit demo | lab | run | chat | runs`. Each loads only what it needs."""

from ftkit.cli.app import main

__all__ = ["main"]
