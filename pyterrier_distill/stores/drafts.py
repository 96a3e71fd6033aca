"""Who writes a draft, and which drafts nobody writes any more."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path

#: This machine, in names of drafts.
_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "host"
_WRITER = re.compile(r"([A-Za-z0-9]+)-(\d+)-\d+")


def writer() -> str:
    """Machine, process and thread, as names of drafts say them."""
    return f"{_HOST}-{os.getpid()}-{threading.get_ident()}"


def gone(name: str) -> bool:
    """Whether a draft is of a process of this machine that has ended; not, where its name says of none.

    Args:
        name: of the draft, with what :func:`writer` said.
    """
    made = _WRITER.search(name)
    return made is not None and made[1] == _HOST and not _alive(int(made[2]))


def draft_directory(folder: Path, prefix: str) -> Path:
    """A new directory to write in; those that ended processes of this machine left there are removed.

    Args:
        folder: where it is made.
        prefix: its name begins so.
    """
    for other in folder.glob(f"{prefix}*"):
        if gone(other.name) or not _WRITER.search(other.name):  # earlier versions did not say whose they were
            shutil.rmtree(other, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{writer()}-", dir=folder))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
