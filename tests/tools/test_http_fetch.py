"""Pages for tools: from a real server on this machine, which the operator of the test allows; and all that is not fetched."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
import pytest_asyncio

from carrel_tools.web import FetchRefused, Web, allowed_hosts, is_public
from tests.support.expect import refused
from tests.tools.conftest import Desk

Code = grpc.StatusCode


class Site:
    """A server that answers by path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            path = request.split(" ", 2)[1]
            if path == "/silent":
                await asyncio.sleep(600)
            writer.write(self._answer(path))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, path: str) -> bytes:
        def redirect(to: str) -> bytes:
            return f"HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()

        def page(content: bytes, *headers: str, state: str = "200 OK") -> bytes:
            lines = [f"HTTP/1.1 {state}", f"content-length: {len(content)}", "connection: close", *headers]
            return "\r\n".join(lines).encode() + b"\r\n\r\n" + content

        match path:
            case "/page":
                return page("grüße".encode(), "content-type: text/plain")
            case "/bytes":
                return page(b"\xff\x00")
            case "/large":
                return page(b"x" * 1_000_000)
            case "/squeezed":
                return page(gzip.compress(b"0" * 10_000_000), "content-encoding: gzip")
            case "/here":
                return redirect("/page")
            case "/away":
                return redirect("http://example.com/")
            case "/port":
                return redirect(f"http://127.0.0.1:{self.port + 1}/")
            case "/file":
                return redirect("file:///etc/passwd")
            case "/round":
                return redirect("/round")
            case "/nonsense":
                return b"nonsense\r\n\r\n"
            case _:
                return page(b"no", state="404 Not Found")


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


@pytest.fixture
def web(site: Site) -> Web:
    return Web(allowed_hosts("", f"http://127.0.0.1:{site.port}"), 500_000)


async def why(web: Web, url: str, seconds: float = 10) -> str:
    with pytest.raises(FetchRefused) as raised:
        await web.fetch(url, 500_000, seconds)
    return raised.value.reason


async def test_a_page_comes_through_the_tool(desk: Desk, own_process, site: Site):
    own = Desk(desk.system, desk.person, (await own_process(HTTP_PRIVATE_HOSTS=f"http://127.0.0.1:{site.port}")).peer)
    url = f"http://127.0.0.1:{site.port}"
    assert await own.result("http_fetch", url=f"{url}/page") == {
        **{"state": 200, "url": f"{url}/page", "media_type": "text/plain", "text": "grüße"}
    }
    assert (await own.result("http_fetch", url=f"{url}/bytes"))["content_base64"] == "/wA="
    assert (await own.result("http_fetch", url=f"{url}/never"))["state"] == 404
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.result("http_fetch", url=f"{url}/page", max_bytes=3)
    assert refusal.error.metadata["tool_reason"] == "TOO_LARGE"
    # Where nothing is allowed nothing is fetched.
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("http_fetch", url=f"{url}/page")
    assert refusal.error.metadata["tool_reason"] == "HOST_NOT_ALLOWED"


async def test_redirects_stay_on_the_host(web: Web, site: Site):
    url = f"http://127.0.0.1:{site.port}"
    assert (await web.fetch(f"{url}/here", 1000, 10)).url == f"{url}/page"
    for path in ("/away", "/port", "/round"):
        assert await why(web, url + path) == "REDIRECT_REFUSED"
    assert await why(web, f"{url}/file") == "URL_INVALID"


async def test_what_does_not_end_or_is_too_much_is_given_up(web: Web, site: Site):
    url = f"http://127.0.0.1:{site.port}"
    assert await why(web, f"{url}/large") == "TOO_LARGE"
    assert await why(web, f"{url}/silent", seconds=0.2) == "TOO_LATE"
    assert await why(web, f"{url}/squeezed") == "NOT_REACHED"
    assert await why(web, f"{url}/nonsense") == "NOT_REACHED"


async def test_nothing_of_the_environment_is_sent(web: Web, site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    await web.fetch(f"http://127.0.0.1:{site.port}/page", 1000, 10)
    sent = {line.split(":")[0].lower() for line in site.requests[0].splitlines()[1:] if line}
    assert sent == {"host", "accept", "accept-encoding", "connection", "user-agent"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://user:password@example.com/",
        "http://",
        "http://[::1",
    ],
)
async def test_what_is_no_url_is_refused(web: Web, url: str):
    assert await why(web, url) == "URL_INVALID"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "http://example.com/",
        "https://example.com:8443/",
        "https://example.com.evil.test/",
        "https://evilexample.com/",
        "https://sub.example.com/",
        "https://example.net/",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
async def test_hosts_that_are_not_named_are_refused(url: str):
    web = Web(allowed_hosts("example.com, *.example.net", ""), 1000)
    assert await why(web, url) == "HOST_NOT_ALLOWED"


async def test_a_name_that_lies_at_a_private_address_is_refused():
    async def resolve(host: str, port: int) -> Sequence[str]:
        return {"a.test": ["10.0.0.1"], "b.test": ["93.184.215.14", "127.0.0.1"], "c.test": ["::ffff:169.254.169.254"]}[
            host
        ]

    web = Web(allowed_hosts("*.test", ""), 1000, resolve)
    for host in ("a.test", "b.test", "c.test"):
        assert await why(web, f"https://{host}/") == "ADDRESS_NOT_PUBLIC"


async def test_a_name_is_resolved_once_and_the_connection_goes_where_was_looked(site: Site):
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    # No name server knows this name: what answers is the address that the resolver gave.
    web = Web(allowed_hosts("", f"http://pinned.test:{site.port}"), 1000, resolve)
    page = await web.fetch(f"http://pinned.test:{site.port}/page", 1000, 10)
    assert page.state == 200 and asked == ["pinned.test"]
    assert f"host: pinned.test:{site.port}" in site.requests[0].lower()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("93.184.215.14", True), ("2606:4700::1111", True)),
        *(("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("0.0.0.0", False)),
        *(("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False)),
        *(("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False)),
        *(
            ("::ffff:10.0.0.1", False),
            ("2002:7f00:1::", False),
            ("64:ff9b::a00:1", False),
            ("64:ff9b::5db8:d70e", True),
        ),
        ("2001::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool):
    assert is_public(address) is public


@pytest.mark.parametrize("entry", ["ftp://example.com", "https://example.com/path", "https://", "https://:80"])
def test_an_entry_that_is_no_host_stops_the_start(entry: str):
    with pytest.raises(ValueError, match="no host"):
        allowed_hosts(entry, "")
