"""Where files lie: on the local disk, or in an object store (`s3://`, `gs://`), named and read in one way.

A local place is a plain `Path`; any other is a `UPath`, pathlib's face over fsspec. Keys and endpoints come from the
environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), which fsspec and polars both read; never from an address.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import polars as pl
from upath import UPath

from qanchor.errors import ConfigError, DataError, QAnchorError

Place = Path | UPath
Stamp = dict[str, int | str]
"""Changes when a file does: its size, and the time of its last change or the store's tag of its content."""

PROTOCOLS = ("s3", "gs", "memory")
"""Stores in which one PUT replaces a whole object at once, and can be told to fail where there is one already."""
SCANNED = ("s3", "gs")
"""Those that polars reads by itself, in parts."""


def place(name: str, root: Path) -> Place:
    """`name` as an address (`s3://bucket/folder`), or as a path relative to `root`.

    Raises:
        ConfigError: another protocol, one whose package is missing, or an address that holds a password.
    """
    protocol, mark, rest = name.partition("://")
    if not mark:
        return root / name
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{known}://" for known in PROTOCOLS)
        raise ConfigError(f"got an address that starts with {protocol}://, expected {known} or a local path")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(f"a {protocol}:// address holds a user name or password: put the key into the environment")
    try:
        # a listing that is remembered would hide what another process has published since
        found = UPath(name, use_listings_cache=False)
        assert found.fs
    except ImportError as error:
        raise ConfigError(f"{protocol}:// cannot be read ({error}): pip install 'qanchor[cloud]'") from None
    return found


def files(pattern: str, root: Path) -> dict[Place, Stamp]:
    """The files that a glob pattern matches, `**` included, as they are now; relative to `root` like `place`.

    Raises:
        ConfigError: as `place`.
        DataError: the store does not answer.
    """
    where = place(pattern, root)
    if isinstance(where, Path):
        found = (Path(os.path.normpath(name)) for name in glob.glob(str(where), recursive=True))
        return {path: stamp(path) for path in found if path.is_file()}
    with reaching(where):
        infos = where.fs.glob(where.path, detail=True)
    return {
        UPath(where.fs.unstrip_protocol(name), use_listings_cache=False): _tag(info)
        for name, info in infos.items()
        if info["type"] == "file"
    }


def stamp(path: Place) -> Stamp:
    """Raises FileNotFoundError when there is none."""
    if isinstance(path, Path):
        stat = path.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return _tag(path.fs.info(path.path))


def _tag(info: dict[str, Any]) -> Stamp:
    return {"size": info["size"], "etag": str(info.get("ETag") or info.get("etag") or info["created"])}


def contents(paths: Sequence[Place]) -> list[bytes | None]:
    """What is in each of some small files of one store, None where there is none; a remote one is asked all at once.

    Raises:
        DataError: a remote store does not answer.
    """
    remote = [path for path in paths if isinstance(path, UPath)]
    if not remote:
        return [_content(path) for path in paths]
    with reaching(remote[0]):
        found = remote[0].fs.cat([path.path for path in remote], on_error="return")
        for error in found.values():
            if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                raise error
    return [data if isinstance(data := found[path.path], bytes) else None for path in remote]


def _content(path: Place) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def whole(path: Place) -> str | IO[bytes]:
    """A file for a reader that wants all of it: the name of a local one, the content of a remote one.

    Raises FileNotFoundError when a remote one is missing; one GET, so that it is never half old and half new.
    """
    return str(path) if isinstance(path, Path) else io.BytesIO(path.fs.cat_file(path.path))


@contextmanager
def opened(path: Place) -> Iterator[str | IO[bytes]]:
    """A file for a reader that takes it in parts: the name of a local one, a handle on a remote one."""
    if isinstance(path, Path):
        yield str(path)
        return
    with path.fs.open(path.path, "rb") as handle:
        yield handle


def scan(paths: Sequence[Place]) -> pl.LazyFrame:
    """The rows of Parquet files in folders `day=YYYY-MM-DD`, of one store, which become the column `day`."""
    if all(isinstance(path, Path) or path.protocol in SCANNED for path in paths):
        return pl.scan_parquet([str(path) for path in paths], hive_partitioning=True, glob=False)
    return pl.concat(
        pl.scan_parquet(whole(path)).with_columns(day=pl.lit(path.parent.name[4:]).str.to_date()) for path in paths
    )


@contextmanager
def scratch(root: Place) -> Iterator[Path]:
    """A local folder for what is not published yet: `root` itself, so that a rename publishes, or a temporary one."""
    if isinstance(root, Path):
        root.mkdir(parents=True, exist_ok=True)
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="qanchor-") as folder:
        yield Path(folder)


@contextmanager
def reaching(where: Place) -> Iterator[None]:
    """Turns whatever a client of a remote store raises into a DataError, but for FileExistsError."""
    try:
        yield
    except (QAnchorError, FileExistsError):
        raise
    except Exception as error:
        if isinstance(where, Path):
            raise
        raise DataError(
            f"cannot reach {where} ({type(error).__name__}: {said(error)}): look at the bucket's name, and at the "
            "endpoint and keys in the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY for s3://)"
        ) from None


def said(error: Exception) -> str:
    """An error's first line, without an address's password; the rest may be a reply that quotes the request."""
    return re.sub(r"//[^/@\s]+@", "//***@", next(iter(str(error).splitlines()), ""))
