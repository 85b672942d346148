"""Reads mcap files that were cut off in the middle: the recorder crashed, or the machine did.

An mcap file is a row of records, each with its length in front, and a footer. What is missing at the end of a file
that was cut off is part of the last record and the footer; `CutOffFile` shows the file up to its last complete record
and a footer behind it. The file itself is not touched.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

MAGIC = b"\x89MCAP0\r\n"
FOOTER, DATA_END = 0x02, 0x0F
HEAD = struct.Struct("<BQ")  # of a record: its kind, and how many bytes follow
EMPTY_FOOTER = HEAD.pack(FOOTER, 20) + bytes(20) + MAGIC  # no summary: whoever reads looks at all records


def is_cut_off(path: Path) -> bool:
    """Whether an mcap file began well and has no end."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return False
        file.seek(0, io.SEEK_END)
        if file.tell() < len(MAGIC) + len(EMPTY_FOOTER):
            return True
        file.seek(-len(MAGIC), io.SEEK_END)
        return file.read() != MAGIC


def end_of_data(path: Path) -> int:
    """Where the last complete record ends, bytes from the start."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = len(MAGIC)
        while end + HEAD.size <= size:
            file.seek(end)
            kind, length = HEAD.unpack(file.read(HEAD.size))
            if kind in (FOOTER, DATA_END) or end + HEAD.size + length > size:
                break
            end += HEAD.size + length
    return end


class CutOffFile(type(Path())):
    """The path of a cut-off file that reads as if it were complete."""

    def open(self, mode: str = "r", *arguments: object, **options: object) -> io.BufferedReader:
        """Only for reading bytes."""
        if mode != "rb":
            raise ValueError(f"{self}: a cut-off recording is only read, as bytes; mode was {mode!r}")
        return io.BufferedReader(_WithFooter(Path(self)))


class _WithFooter(io.RawIOBase):
    """The complete records of a file, and an empty footer."""

    def __init__(self, path: Path) -> None:
        self._end = end_of_data(path)
        self._file = path.open("rb", buffering=0)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._end + len(EMPTY_FOOTER)
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        wanted = len(buffer)
        if self._at < self._end:
            self._file.seek(self._at)
            data = self._file.read(min(wanted, self._end - self._at))
        else:
            data = EMPTY_FOOTER[self._at - self._end :][:wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
