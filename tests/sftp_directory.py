"""A directory as paramiko's SFTP server shows it: just what a client needs to read, write, list and rename."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import paramiko


class Login(paramiko.ServerInterface):
    """Lets `me` in with the password `pass`."""

    def check_auth_password(self, username: str, password: str) -> int:
        right = (username, password) == ("me", "pass")
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


class _Handle(paramiko.SFTPHandle):
    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Directory(paramiko.SFTPServerInterface):
    root: Path

    def _path(self, path: str) -> Path:
        return self.root / self.canonicalize(path).lstrip("/")

    def list_folder(self, path: str) -> Any:
        try:
            found = []
            for entry in self._path(path).iterdir():
                found.append(paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name))
            return found
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(self._path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            descriptor = os.open(self._path(path), flags, 0o600)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        handle = _Handle(flags)
        mode = "rb" if flags & 3 == os.O_RDONLY else "r+b" if flags & os.O_RDWR else "wb"
        file = os.fdopen(descriptor, mode)
        handle.filename, handle.readfile, handle.writefile = path, file, file
        return handle

    def remove(self, path: str) -> int:
        return self._done(os.remove, self._path(path))

    def posix_rename(self, old: str, new: str) -> int:
        return self._done(os.replace, self._path(old), self._path(new))

    def mkdir(self, path: str, attr: Any) -> int:
        return self._done(os.mkdir, self._path(path))

    def _done(self, action: Any, *paths: Path) -> int:
        try:
            action(*paths)
        except OSError as error:
            return int(paramiko.SFTPServer.convert_errno(error.errno))
        return int(paramiko.SFTP_OK)


def interface_for(root: Path) -> type[paramiko.SFTPServerInterface]:
    """The SFTP interface over a directory, which is its `/`."""
    return type("Directory", (_Directory,), {"root": root})
