"""`ramster node`: the daemon in the foreground, with its log on standard error."""

from __future__ import annotations

import logging

from ramster.node import daemon


def main(config: str) -> None:
    """Serves until it is told to stop. Raises ConfigError or StartError."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    daemon.serve(config)
