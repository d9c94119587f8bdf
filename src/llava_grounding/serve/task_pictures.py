"""Pictures of Label Studio's tasks: from a folder that is served here too, or from the Label Studio that was named.

Whoever starts the server says which folder and which Label Studio; a task names only what is below them. Nothing else
is opened or fetched, links that lead out of the folder are refused, nothing is followed, bytes and time are bounded.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from llava_grounding.confined_files import AllowedFolders
from llava_grounding.errors import ConfigError, ImageError, quoted
from llava_grounding.image_files import ImageLimits

LOCAL_FILES = "/data/local-files/"
"""Under which Label Studio serves its local storage: `?d=PATH`."""
_ITS_OWN = re.compile(r"/data/[!-~]*")
_CHUNK = 65536
_CONNECTIONS: dict[str, Callable[..., http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


@dataclass(frozen=True)
class LabelStudioSettings:
    """Where pictures of tasks come from.

    Raises:
        ConfigError: if the address is none.
    """

    files: Path | None = None
    """Folder that Label Studio's local storage begins with; tasks name paths below it."""
    url: str | None = None
    """Address of Label Studio, for pictures that were uploaded there."""
    token: str | None = None
    """Token of one of its users; sent to it and nowhere else."""
    timeout_seconds: float = 30.0
    """Seconds that fetching a picture may take."""

    def __post_init__(self) -> None:
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in _CONNECTIONS or not parts.hostname or parts.query or "@" in parts.netloc:
                raise ConfigError(
                    f"the address of Label Studio must be as http://127.0.0.1:8080, got {quoted(self.url)}"
                )
        if self.files is not None and not self.files.is_dir():
            raise ConfigError(f"the folder of Label Studio's files must exist, got {quoted(str(self.files))}")


class TaskPictures:
    """Gives the bytes of tasks' pictures.

    Args:
        otherwise: for addresses that are neither in the folder nor in Label Studio: data URLs, allowed hosts.
    """

    def __init__(
        self, settings: LabelStudioSettings, limits: ImageLimits, otherwise: Callable[[str, str], bytes]
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._otherwise = otherwise
        folder = settings.files
        self._files = None if folder is None else AllowedFolders([folder], "the folder of Label Studio's files")
        self._base = (settings.url or "").rstrip("/")

    def bytes_of(self, address: str) -> bytes:
        """The encoded picture at an address.

        Raises:
            ImageError: if it cannot be had.
        """
        if self._base and address.startswith(f"{self._base}/data/"):
            address = address.removeprefix(self._base)
        if self._files is not None and address.startswith(LOCAL_FILES):
            return self._files.read((parse_qs(urlsplit(address).query).get("d") or [""])[0], self._limits.max_bytes)
        if self._base and _ITS_OWN.fullmatch(address) and ".." not in address:
            return self._fetched(address)
        if address.startswith("/"):
            raise ImageError(
                f"this server cannot have the picture {quoted(address)}; "
                "see --label-studio-files and --label-studio-url"
            )
        return self._otherwise(address, "the picture of the task")

    def _fetched(self, target: str) -> bytes:
        settings, parts = self._settings, urlsplit(self._base)
        deadline = time.monotonic() + settings.timeout_seconds
        connection = _CONNECTIONS[parts.scheme](parts.hostname, parts.port, timeout=settings.timeout_seconds)
        headers = {"Authorization": f"Token {settings.token}"} if settings.token else {}
        data = bytearray()
        try:
            connection.request("GET", parts.path + target, headers=headers)
            with connection.getresponse() as response:
                if response.status != http.client.OK:
                    raise ImageError(f"Label Studio does not give the picture: it answered {response.status}")
                while piece := response.read1(_CHUNK):
                    data += piece
                    if len(data) > self._limits.max_bytes or time.monotonic() > deadline:
                        break
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ImageError("the picture could not be fetched from Label Studio") from error
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise ImageError("the picture could not be fetched from Label Studio in time")
        if len(data) > self._limits.max_bytes:
            raise ImageError(f"the picture of the task has more than the {self._limits.max_bytes / 1e6:g} MB allowed")
        return bytes(data)
