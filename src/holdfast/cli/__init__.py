"""The command line: one file per verb.

Rules
1. Results go to stdout; everything else (progress, hints, errors) to stderr.
2. A reading verb makes no store, claims nothing and keeps no writer waiting.
3. What a log says is data: it never reaches a terminal raw, and no module is imported because a log names it.
"""

from holdfast.cli.app import main

__all__ = ["main"]
