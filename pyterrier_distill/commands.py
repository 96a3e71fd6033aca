"""How the commands end: well, after a mistake of the user's that is told in one line, or stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

#: What bad input raises. Anything else is a fault of the program's, and is shown whole.
MISTAKES = (ValueError, OSError, LookupError, ImportError, FloatingPointError)


def ended(program: str, work: Callable[[], Any], *, mistakes: tuple[type[Exception], ...], stopped: str) -> int:
    """Do the work of a command.

    Args:
        program: its name, as messages begin.
        work: what is to be done.
        mistakes: errors that bad input raises.
        stopped: what is said after Ctrl+C.

    Returns:
        The process's exit status: 0 when all went well, 2 after a mistake, 130 after Ctrl+C.
    """
    try:
        work()
    except mistakes as error:
        message = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
        print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\n{program}: {error.args[0] if error.args else stopped}", file=sys.stderr)
        return 130
    return 0
