"""Files as bytes, lines and numbers, the error that names the file and the line, and texts written whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

MAX_BYTES = 1 << 29
"""No file, array of a file, or motion made from one may be larger than this (512 MiB)."""


class MotionFileError(ValueError):
    """A motion file that cannot be read; the message is "FILE:LINE: what is wrong" (or "FILE: ...")."""


def shown(word: str) -> str:
    """A text from a file, safe to print."""
    return repr(word if len(word) <= 40 else word[:40] + "...")


def error_at(path: Path, line: int, what: str) -> MotionFileError:
    """The error to raise for one line of a text file."""
    return MotionFileError(f"{path}:{line}: {what}")


def check_size(path: Path, size: int, what: str) -> None:
    """Raise if `size` is over the limit; `what` says what would need it: "the file has", "positions unpacks to"."""
    if size > MAX_BYTES:
        raise MotionFileError(f"{path}: {what} {size} bytes, more than {MAX_BYTES}")


def read_bytes(path: Path) -> bytes:
    """What a file holds: at least one byte, and at most `MAX_BYTES`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such motion file")
    try:
        check_size(path, path.stat().st_size, "the file has")
        content = path.read_bytes()
    except OSError as error:
        raise MotionFileError(f"{path}: cannot be read: {error.strerror}") from None
    if not content:
        raise MotionFileError(f"{path}: the file is empty")
    return content


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and only if that changes it."""
    content = text.encode("utf-8")
    if path.is_file() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_lines(path: Path) -> list[str]:
    """A text file's lines, whichever of CRLF, LF and CR end them (some files mix them)."""
    content = read_bytes(path)
    if b"\0" in content:
        raise MotionFileError(f"{path}: not a text file (it holds NUL bytes)")
    # Only joint names can be other than ASCII; an unknown encoding must not lose the motion.
    text = content.decode("utf-8-sig", errors="replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    return lines


def numbers_of(path: Path, line: int, words: Sequence[str], count: int, what: str) -> list[float]:
    """The `count` finite numbers that the words of a line are to be; `what` they are, for the error."""
    if len(words) != count:
        raise error_at(path, line, f"{what} must have {count} values, got {len(words)}")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not _is_number(word))
        raise error_at(path, line, f"{what} must hold numbers, got {shown(bad)}") from None
    if not all(map(math.isfinite, numbers)):
        bad = next(word for word in words if not math.isfinite(float(word)))
        raise error_at(path, line, f"{what} must hold finite numbers, got {shown(bad)}")
    return numbers


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
