"""The network door: patient requests for downloads, and one sentence for whatever a server or a cable does."""

import contextlib
import email.utils
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from ganctl.catalog import LOOPBACK, HubFile
from ganctl.errors import GanctlError, UsageError, WeightsError, quoted
from ganctl.io.progress import SILENT, Reporter

if TYPE_CHECKING:
    from pathlib import Path

TRIES = 4
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 120.0
"""A server that asks for a longer pause is an error: the user decides, not a sleeping process."""
CONNECT_S = 10.0
SEE_INFO = "see what the zoo expects: ganctl zoo info NAME; perhaps the file was moved or replaced"
RETRIED = (408, 429, 500, 502, 503, 504)

_speaking: ContextVar[Reporter | None] = ContextVar("_speaking", default=None)
_installed = False


class UnreachableError(WeightsError):
    """No answer, or none but 'later', after several tries: what is cached may still do."""


class MissingFileError(WeightsError):
    """The repository is there, and has no such file at this revision."""


def offline() -> bool:
    """Whether the user forbade requests (`HF_HUB_OFFLINE`, which --offline sets)."""
    given = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return given.upper() in ("1", "ON", "YES", "TRUE")


@contextlib.contextmanager
def hub_requests(repo: str, reporter: Reporter = SILENT) -> Iterator[None]:
    """Inside it the Hub client retries in our way, is quiet, and raises only GanctlError, about `repo`."""
    from huggingface_hub import logging as hub_logging

    _install()
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    token = _speaking.set(reporter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except GanctlError:
        raise
    except Exception as e:
        raise _sentence(e, repo) from e
    finally:
        _speaking.reset(token)
        hub_logging.set_verbosity(verbosity)


def httpx() -> ModuleType:
    """The HTTP library the Hub client was built on (its name changed between major versions)."""
    from huggingface_hub import get_session

    base = next(k for k in type(get_session()).__mro__ if not k.__module__.startswith("ganctl"))
    return sys.modules[base.__module__.partition(".")[0]]


def _install() -> None:
    """Gives the Hub client sessions that are patient while one of our calls is under way, and plain otherwise."""
    global _installed
    if _installed:
        return
    from huggingface_hub import constants, get_session, set_client_factory

    if "HF_HUB_DISABLE_XET" not in os.environ:
        # Xet is a second client, with its own ideas of patience, time limits and messages. Files here are of a size
        # that one plain request brings as well.
        constants.HF_HUB_DISABLE_XET = True
    lib, plain = httpx(), get_session()
    hooks, base = plain.event_hooks, type(plain)

    class Client(base):  # type: ignore[misc, valid-type]
        def send(self, request: Any, **options: Any) -> Any:
            reporter = _speaking.get()
            if reporter is None:
                return super().send(request, **options)
            _bound_times(request)
            return _patient(lambda: super(Client, self).send(request, **options), request, lib, reporter)

    set_client_factory(lambda: Client(event_hooks=hooks, follow_redirects=True, timeout=None))
    _installed = True


def _bound_times(request: Any) -> None:
    # The Hub client leaves some requests without a limit; none of ours may wait for ever.
    from huggingface_hub import constants

    limits, pause = request.extensions.get("timeout", {}), float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    bounds = {"connect": CONNECT_S, "read": pause, "write": pause, "pool": pause}
    request.extensions["timeout"] = {k: limits.get(k) or bound for k, bound in bounds.items()}


def _patient(send: Any, request: Any, lib: ModuleType, reporter: Reporter) -> Any:
    """Sends up to TRIES times: connection faults, 408, 429 and 5xx, with the server's waiting time, showing it."""
    host, wait = request.url.host, FIRST_WAIT_S
    replayable = request.method in ("GET", "HEAD")
    for attempt in range(1, TRIES + 1):
        asked = None
        try:
            response = send()
        except lib.TransportError as e:
            if attempt == TRIES or not replayable:
                raise unreachable(host, e) from e
            why = _transport_fault(e)
        else:
            if response.status_code not in RETRIED or not (replayable or response.status_code == 429):
                return response
            asked, why = _asked_wait(response.headers.get("retry-after")), _status_fault(response.status_code)
            if request.method not in ("GET", "HEAD") and not _has_bytes(request):
                return response
            response.close()
            if asked is not None and asked > MAX_WAIT_S:
                raise UnreachableError(
                    f"{host} will not serve us now", f"{why}, and asks to wait {asked:.0f} s", "try again after that"
                )
            if attempt == TRIES:
                raise UnreachableError(
                    f"{host} will not serve us now", f"{why}, {TRIES} times in a row", "try again later"
                )
        pause = asked if asked is not None else wait
        reporter.warn(f"waiting {pause:g} s for {host}", why, f"try {attempt + 1} of {TRIES} follows by itself")
        time.sleep(pause)
        wait *= 2
    raise AssertionError("the loop returns or raises")


def _has_bytes(request: Any) -> bool:
    try:
        return request.content is not None
    except Exception:  # a streamed body can be sent only once
        return False


def _asked_wait(header: str | None) -> float | None:
    """Seconds asked for by a Retry-After header: a number, or a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _status_fault(status: int) -> str:
    return "it answered 429 (too many requests)" if status == 429 else f"it answered {status}"


def _transport_fault(e: Exception) -> str:
    name = type(e).__name__
    if name.endswith("Timeout"):
        request = getattr(e, "_request", None)
        limits = request.extensions.get("timeout", {}) if request is not None else {}
        limit = limits.get(name.removesuffix("Timeout").lower())
        return f"no answer within {limit:g} s" if limit else "no answer in time"
    if "Proxy" in name:
        return "the proxy refused the connection"
    if name in ("ReadError", "RemoteProtocolError", "WriteError"):
        return "the connection was cut"
    return "the connection failed"


def unreachable(host: str, e: Exception) -> UnreachableError:
    """The sentence for a server that cannot be reached. Names the host only: addresses may be signed."""
    return UnreachableError(
        f"cannot reach {host}",
        _transport_fault(e),
        "check the connection and the proxy variables, or run with --offline what is cached",
    )


def ping(seconds: float) -> str:
    """One small request to the Hub, tried once. Gives its host name; raises UnreachableError after `seconds`."""
    from huggingface_hub import constants, get_session

    lib, host = httpx(), _host(constants.ENDPOINT)
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except (lib.TransportError, lib.InvalidURL) as e:
        raise unreachable(host, e) from e
    return host


def _sentence(e: Exception, repo: str) -> GanctlError:
    """The user's sentence for whatever the Hub client raises. Never its own text: that may hold addresses."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    where = f"cannot get {quoted(repo)} from the Hub"
    # A failed HEAD comes wrapped in "not found locally", a failed upload in RuntimeError: the cause says more.
    cause = e.__cause__ if isinstance(e.__cause__, Exception) else None
    if isinstance(e, errors.LocalEntryNotFoundError | RuntimeError) and cause is not None:
        return cause if isinstance(cause, GanctlError) else _sentence(cause, repo)
    lib = httpx()
    if isinstance(e, errors.GatedRepoError):
        return WeightsError(
            where, "its authors ask for agreement first", f"accept the terms at {page}, then set HF_TOKEN"
        )
    if isinstance(e, errors.RevisionNotFoundError):
        return WeightsError(where, "the repository has no such revision", f"see {page}/commits/main")
    if isinstance(e, errors.EntryNotFoundError) and not isinstance(e, errors.LocalEntryNotFoundError):
        return MissingFileError(where, "the repository has no such file at this revision", f"see {page}/tree/main")
    if isinstance(e, errors.RepositoryNotFoundError):
        return _private(where)
    if isinstance(e, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return WeightsError(f"{repo} not cached and offline", "a request was needed", "run once without --offline")
    if isinstance(e, errors.HfHubHTTPError):
        return _http_sentence(where, e.response.status_code, page)
    if isinstance(e, errors.HFValidationError):
        return UsageError(f"cannot use {quoted(repo)}", "it is no name of a Hub repository", "give it as org/name")
    if isinstance(e, errors.FileMetadataError):
        return WeightsError(where, "the server does not answer like a Hub", "check HF_ENDPOINT and the proxy variables")
    if isinstance(e, lib.TransportError):
        return unreachable(_host(constants.ENDPOINT), e)
    if isinstance(e, OSError) and e.errno is not None:
        from ganctl.io.files import write_error

        fault = write_error(_cache_path(), e)
        hint = "set HF_HOME or HF_HUB_CACHE to a folder that can be written" if isinstance(fault, UsageError) else ""
        return type(fault)(fault.what, fault.why, hint or fault.hint)
    if isinstance(e, OSError) and "Consistency check" in str(e):
        return WeightsError(where, "the file arrived with another size than promised", "try again")
    return GanctlError(
        where, f"the Hub client failed: {type(e).__name__}", "try again, with --traceback for the details"
    )


def _private(where: str) -> WeightsError:
    return WeightsError(
        where,
        "the repository is private or missing",
        "check the name; for a private one set HF_TOKEN or: hf auth login",
    )


def _http_sentence(where: str, status: int, page: str) -> GanctlError:
    if status in (401, 404):
        return _private(where)
    if status == 403:
        return WeightsError(
            where,
            "access is forbidden (403)",
            f"accept the terms at {page}, or use a token (HF_TOKEN) that may do this",
        )
    return WeightsError(where, f"the Hub answered {status}", "try again later")


def _host(address: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(address).hostname or "the Hub"


def _cache_path() -> "Path":
    from pathlib import Path

    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@dataclass(frozen=True)
class Answer:
    """What a server says of a file that was not downloaded."""

    url: str
    """As it was asked for."""
    host: str
    """Where the file lies in the end; its address may be signed."""
    redirects: int
    bytes: int | None
    sha256: str = ""
    """Where the server tells it: the Hub, of large files."""


def probe(url: str, reporter: Reporter = SILENT) -> Answer:
    """Asks for a file without reading it: HEAD, or the first byte where that tells no size.

    Raises WeightsError: unreachable, refused, a web page in its place, or a redirect away from https.
    """
    from huggingface_hub import get_session

    _install()
    lib, host = httpx(), _host(url)
    token = _speaking.set(reporter)
    try:
        for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
            with get_session().stream(method, url, headers={"Accept-Encoding": "identity", **headers}) as response:
                _check_hops(response, host)
                size = _size_told(response)
                if response.status_code in (200, 206) and (size is not None or method == "GET"):
                    break
    except lib.TransportError as e:
        raise unreachable(host, e) from e
    finally:
        _speaking.reset(token)
    _check_status(response)
    if response.headers.get("content-type", "").startswith("text/html"):
        raise WeightsError(
            f"cannot use what {host} gives", "it is a web page, perhaps one that asks for a click", SEE_INFO
        )
    return Answer(url, response.url.host, len(response.history), size)


def _size_told(response: Any) -> int | None:
    """Of a whole file, whether all of it or a part is on its way."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    length = total if response.status_code == 206 else response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def hub_file(hub: HubFile, reporter: Reporter = SILENT) -> Answer:
    """The same of a pinned file of the Hub. Raises WeightsError."""
    with hub_requests(hub.repo, reporter):
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(hub.repo, hub.file, revision=hub.revision)
        told = get_hf_file_metadata(url)
        digest = told.etag if told.etag and re.fullmatch(r"[0-9a-f]{64}", told.etag) else ""
        return Answer(url, _host(told.location or url), int(told.location != url), told.size, digest)


def _check_hops(response: Any, host: str) -> None:
    hops = [r.url for r in (*response.history, response)]
    if any(hop.scheme != "https" and hop.host not in LOOPBACK for hop in hops):
        raise WeightsError(f"cannot download from {host}", "it sends us on to an address without https", SEE_INFO)


def _check_status(response: Any) -> None:
    if response.status_code not in (200, 206):
        why = "the file is gone (404)" if response.status_code == 404 else f"it answered {response.status_code}"
        raise WeightsError(f"cannot download from {response.url.host}", why, SEE_INFO)


def download_to(url: str, stream: IO[bytes], *, expected: int, reporter: Reporter, stage: str, limit: int = 0) -> None:
    """GETs an https address into a seekable stream, going on after a cut connection; `expected` 0 is unknown.

    Raises WeightsError: unreachable, refused, another size than expected, more bytes than `limit` (0: any number), or
    a redirect away from https.
    """
    from huggingface_hub import get_session

    _install()
    host, lib, failures = _host(url), httpx(), 0
    token = _speaking.set(reporter)
    try:
        while True:
            start = stream.tell()
            headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
            try:
                with get_session().stream("GET", url, headers=headers) as response:
                    _check_hops(response, host)
                    _receive(response, stream, start, expected, reporter, stage, limit)
                break
            except lib.TransportError as e:
                failures = 1 if stream.tell() > start else failures + 1
                if failures >= TRIES:
                    raise unreachable(host, e) from e
                reporter.warn(f"going on with {stage} at byte {stream.tell()}", _transport_fault(e), "")
                time.sleep(FIRST_WAIT_S)
    finally:
        _speaking.reset(token)
    if expected and stream.tell() != expected:
        raise WeightsError(
            f"cannot use the download from {host}",
            f"it has {stream.tell()} bytes, expected {expected}",
            SEE_INFO,
        )


def _receive(
    response: Any, stream: IO[bytes], start: int, expected: int, reporter: Reporter, stage: str, limit: int
) -> None:
    host = response.url.host
    _check_status(response)
    if start and response.status_code == 200:  # it ignored the range and begins again
        stream.seek(0)
        stream.truncate()
    length = response.headers.get("content-length", "")
    total = expected or (stream.tell() + int(length) if length.isdigit() else 0)
    for chunk in response.iter_bytes(1 << 20):
        stream.write(chunk)
        if expected and stream.tell() > expected:
            raise WeightsError(
                f"cannot use the download from {host}", f"it is longer than the expected {expected} bytes", SEE_INFO
            )
        if limit and stream.tell() > limit:
            raise WeightsError(f"cannot use the download from {host}", f"it is longer than {limit} bytes", SEE_INFO)
        reporter.progress(stage, stream.tell(), total)
