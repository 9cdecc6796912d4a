"""Downloads with a timeout, a checksum and alternative addresses, by pooch."""

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from src.errors import DownloadError, OutputError
from src.paths import relative

TIMEOUT = 20  # seconds without an answer before an address counts as unreachable
RETRY_AFTER = 60  # seconds for which a failure is remembered

_failures: dict[Path, tuple[float, str]] = {}  # target folder -> time and message of the last failed download


def download(urls: Sequence[str], target: Path, md5: str | None = None) -> None:
    """Download `target` from the first of `urls` that sends it complete, and with the right MD5 if one is given.

    The file is written under a temporary name and then renamed, so `target` never holds half a download.

    Raises:
        DownloadError: every address failed; the message names each with its fault.
        OutputError: the file cannot be written.
    """
    import pooch  # here, since most commands download nothing
    import requests

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=True, chunk_size=2**16)
    failures = []
    for url in urls:
        try:
            pooch.retrieve(url, f"md5:{md5}" if md5 else None, target.name, target.parent, downloader=downloader)
            return
        except (requests.RequestException, ConnectionError, TimeoutError) as error:
            failures.append(f"{url}: {error}")
        except ValueError:
            failures.append(f"{url}: the file sent has a wrong MD5")
        except OSError as error:  # of the file system
            raise OutputError(f"{relative(target)} cannot be written ({error.strerror or error})") from error
    raise DownloadError("; ".join(failures))


def fetch_or_warn(fetch: Callable[[Path], None], folder: Path, name: str, sample: str) -> bool:
    """Download the data set `name` by `fetch(folder)`. Returns True on success; else warns that `sample` is used.

    Raises:
        OutputError: the data set cannot be written, which is no matter of the network.
    """
    failure = _try_fetch(fetch, folder)
    if failure:
        warnings.warn(
            f"{name} could not be downloaded ({failure}). Using {sample} instead: everything runs, but its numbers are "
            f"not comparable with those on {name}.",
            stacklevel=3,
        )
    return not failure


def _try_fetch(fetch: Callable[[Path], None], folder: Path) -> str | None:
    """The error message of `fetch(folder)`, or None on success.

    A failure is remembered for `RETRY_AFTER` seconds, because each attempt is slow when no server answers.
    """
    when, message = _failures.get(folder, (-RETRY_AFTER, ""))
    if time.monotonic() - when < RETRY_AFTER:
        return message
    try:
        fetch(folder)
    except DownloadError as error:
        _failures[folder] = (time.monotonic(), str(error))
        return str(error)
    _failures.pop(folder, None)
    return None
