"""Pages of the web for tools: from hosts that the operator has named, at addresses that are public, and nowhere else.

A name is resolved once, all its addresses are looked at, and the connection is made to the address that was looked at: a second answer
of the name server changes nothing. Redirects stay on the host and are looked at again. Nothing of the environment (proxies, credentials)
is used, and nothing is decompressed: what comes is counted as it comes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

_MAX_REDIRECTS = 5
_PORTS = {"https": 443, "http": 80}
_HEADERS = {"accept-encoding": "identity", "user-agent": "carrel"}


class FetchRefused(Exception):
    """Why a page is not fetched: (reason, message)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """An entry of the operator's list."""

    scheme: str
    host: str
    """With a leading dot for all hosts below a domain, itself excluded."""
    port: int
    private: bool
    """Whether it may lie at an address that is not public: for services of the operator's own network, and for tests."""

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Whether it is this host, by name."""
        if (scheme, port) != (self.scheme, self.port):
            return False
        return host.endswith(self.host) if self.host.startswith(".") else host == self.host


@dataclass(frozen=True, slots=True)
class Page:
    """What a host answered."""

    state: int
    """The HTTP status code."""
    url: str
    """After redirects."""
    headers: Mapping[str, str]
    content: bytes


def read_allowed(text: str, *, private: bool) -> tuple[AllowedHost, ...]:
    """Entries separated by commas: "example.com", "*.example.org", "http://example.net:8080"; https where no scheme is given."""
    entries = []
    for entry in (each.strip() for each in text.split(",")):
        if not entry:
            continue
        url = httpx.URL(entry if "://" in entry else f"https://{entry}")
        if url.scheme not in _PORTS or not url.host or url.path not in ("", "/"):
            raise ValueError(f'"{entry}" is no host that could be allowed')
        host = url.host.removeprefix("*") if url.host.startswith("*.") else url.host
        entries.append(AllowedHost(url.scheme, host.lower(), url.port or _PORTS[url.scheme], private))
    return tuple(entries)


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, at least one; raises OSError."""


async def resolved(host: str, port: int) -> Sequence[str]:
    """What the name server of this machine says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


def allowed_hosts(public: str, private: str) -> tuple[AllowedHost, ...]:
    """The operator's two lists as one."""
    return read_allowed(public, private=False) + read_allowed(private, private=True)


class Web:
    """Fetches pages for tools."""

    def __init__(self, allowed: Sequence[AllowedHost], most_bytes: int, resolve: Resolve = resolved) -> None:
        self._allowed = allowed
        self._most_bytes = most_bytes
        self._resolve = resolve

    async def fetch(self, url: str, max_bytes: int, seconds: float) -> Page:
        """Gets a page; raises FetchRefused with URL_INVALID, HOST_NOT_ALLOWED, ADDRESS_NOT_PUBLIC, REDIRECT_REFUSED, TOO_LARGE,
        TOO_LATE, NOT_REACHED."""
        target = _read(url)
        try:
            async with asyncio.timeout(seconds):
                for _ in range(_MAX_REDIRECTS + 1):
                    page = await self._get(target, min(max_bytes, self._most_bytes))
                    if not (300 <= page.state < 400 and "location" in page.headers):
                        return page
                    target = _next(target, page.headers["location"])
        except TimeoutError:
            raise FetchRefused("TOO_LATE", f"{target.host} did not answer within the time there was.") from None
        except (httpx.HTTPError, OSError) as error:
            raise FetchRefused("NOT_REACHED", f"{target.host} could not be reached ({type(error).__name__}).") from None
        raise FetchRefused("REDIRECT_REFUSED", f"{target.host} redirects more than {_MAX_REDIRECTS} times.")

    async def _get(self, target: httpx.URL, most: int) -> Page:
        address = await self._address(target)
        pinned = target.copy_with(host=address, fragment=None)
        headers = {**_HEADERS, "host": target.netloc.decode()}
        # The certificate is checked against the name; only the connection goes to the address.
        extensions = {"sni_hostname": target.host}
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
            client.stream("GET", pinned, headers=headers, extensions=extensions) as answer,
        ):
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise FetchRefused("NOT_REACHED", f"{target.host} sends compressed pages only.")
            content = bytearray()
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > most:
                    raise FetchRefused("TOO_LARGE", f"The page has more than {most} bytes.")
            return Page(answer.status_code, str(target), dict(answer.headers), bytes(content))

    async def _address(self, target: httpx.URL) -> str:
        """The address to connect to; refused unless the host is allowed and each of its addresses is public."""
        port = target.port or _PORTS[target.scheme]
        entry = next((each for each in self._allowed if each.allows(target.scheme, target.host.lower(), port)), None)
        if entry is None:
            raise FetchRefused(
                "HOST_NOT_ALLOWED", f"{target.scheme}://{target.host}:{port} is not among the hosts that may be asked."
            )
        addresses = await self._resolve(target.host, port)
        if not entry.private and not all(map(is_public, addresses)):
            raise FetchRefused("ADDRESS_NOT_PUBLIC", f"{target.host} lies at an address that is not public.")
        return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet; those that wrap another one are judged by it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        wrapped = parsed.ipv4_mapped or parsed.sixtofour or _nat64(parsed)
        if wrapped is not None:
            return is_public(str(wrapped))
        if parsed.teredo is not None:
            return False
    return parsed.is_global and not parsed.is_multicast


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in ipaddress.ip_network("64:ff9b::/96") else None


def _read(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        raise FetchRefused("URL_INVALID", "The url cannot be read.") from None
    if target.scheme not in _PORTS or not target.host:
        raise FetchRefused("URL_INVALID", "The url must begin with https:// or http:// and name a host.")
    if target.userinfo:
        raise FetchRefused("URL_INVALID", "The url must hold no user and no password.")
    return target


def _next(target: httpx.URL, location: str) -> httpx.URL:
    following = _read(str(target.join(location)))
    if (following.scheme, following.host, following.port) != (target.scheme, target.host, target.port):
        raise FetchRefused("REDIRECT_REFUSED", f"{target.host} redirects to another host, {following.host[:100]}.")
    return following
