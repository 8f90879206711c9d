"""URLs of the config: which words are one, and which must not be passed on."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

#: Keys of a query that carry a signature or a key with the large object stores.
SIGNED = re.compile(r"(?:^|[?&;])[^=&;]*(?:sig|token|secret|key|password|credential|auth)[^=&;]*=", re.IGNORECASE)

#: What stands before an ``@`` in a URL: a user, or a user and a password (which may hold a slash).
BEFORE_AT = re.compile(r"[^/?#@]*@|[^/?#@]*:(?!\d+/)[^?#@]*@")

#: Schemes whose paths begin with ``container@account``.
CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")


#: Schemes of what can only be read, and of archives: no place for a store.
NO_STORES = ("http", "https", "zip", "tar", "libarchive", "data", "github", "git", "reference", "ftp")

#: Schemes of what ends with the process that wrote it.
PASSING = ("memory",)


class ConfigError(ValueError):
    """The configuration cannot be run as it is; nothing has been computed.

    Examples
    --------
    >>> from pipeline import ConfigError, load_config
    >>> try:
    ...     load_config("no_such_run.toml")
    ... except ConfigError as error:
    ...     print("refused before any compute:", str(error).splitlines()[0][:17])
    refused before any compute: the config no_suc
    """


def is_url(path: str) -> bool:
    """Whether a path names an object store rather than a file system."""
    return "://" in path


def scheme_of(url: str) -> str:
    """What stands before ``://`` in a URL, in small letters; empty for a path of a file system."""
    return url.partition("://")[0].lower() if is_url(url) else ""


def refuse_passing(location: str) -> None:
    """Refuse a store that would be gone when the command ends, and that no other process could see.

    Raises `ConfigError`. In Python such a store has its use: what `run_locally` wrote into it, `open_cube` reads.
    """
    if scheme_of(location) in PASSING:
        raise ConfigError(
            f"store = {location!r} lies in the memory of this process, so every map would be lost when the command"
            " ends; give a folder, or s3://bucket/prefix"
        )


def refuse_secrets(url: str, where: str = "") -> None:
    """Refuse a URL that carries a password or a signature: paths end in logs and in the cube.

    Of chained URLs (``simplecache::s3://...``) each one is looked at.

    ``where``: The key of the config that holds it. Raises `ConfigError`; the message does not repeat the secret.
    """
    where = f"{where}: " if where else ""
    for link in url.split("::"):
        scheme, found, rest = link.partition("://")
        if not found:
            continue
        user = BEFORE_AT.match(rest)
        if user and (scheme not in CONTAINERS or ":" in user.group()):
            host = rest.partition("?")[0].rpartition("@")[2]
            raise ConfigError(
                f"{where}a URL {scheme}://...@{host} holds credentials, which would be written to logs and into the"
                " cube; take them out and put them into the environment or the store's own settings file"
            )
        query = urlsplit(link).query
        if query and (scheme in ("http", "https") or SIGNED.search(query)):
            raise ConfigError(
                f"{where}a URL {link.partition('?')[0]}?... has a query, which may be a signature that would be written"
                " to logs and into the cube; give the path without it and the credentials through the environment"
            )


def refuse_secrets_within(value: Any) -> None:
    """Refuse the first URL with a secret among the words of a config, whatever its key.

    Raises `ConfigError`; the message names the key and does not repeat the secret.
    """
    for key, text in texts(value):
        refuse_secrets(text, key)


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config with its key."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping | list | tuple):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from texts(entry, f"{where}.{key}" if where else str(key))
