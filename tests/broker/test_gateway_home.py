"""The page at "/": what a person who is signed in sees, and in which form."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
import requests
from gateway_fixtures import FakeMep, Site, payload, poll, running_site, unique
from login_fixtures import Browser, add_user, person, start_without_broker
from rabbit import server_script

from tests.conftest import require


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(start_timeout=10) as site:
        yield site


class Structure(HTMLParser):
    """Elements by name, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attrs))


def double(x: int) -> int:
    return 2 * x


def signed_in(site: Site, username: str) -> Browser:
    browser = Browser()
    browser.get(f"{site.url}/")
    browser.log_in(username)
    return browser


def test_who_is_not_signed_in_is_asked_to(site: Site) -> None:
    answer = requests.get(f"{site.url}/", timeout=10, allow_redirects=False)
    assert answer.status_code == 303 and answer.headers["Location"] == "/v2/web/login"


def test_endpoints_user_endpoints_and_tasks(site: Site) -> None:
    name = unique("harper")
    harper, jessie = person(site, name), person(site, unique("jessie"))
    mep = FakeMep(jessie, endpoint_name="lab", display_name="<b>The lab</b>").online()
    hidden = jessie.call("POST", "/v3/endpoints", {"endpoint_name": "hers"}).json()["endpoint_id"]
    shared = {"endpoint_name": "ours", "admins": [harper.id]}
    ours = jessie.call("POST", "/v3/endpoints", shared).json()["endpoint_id"]
    function = harper.register(double)
    (task,) = harper.submit(mep, {function: [payload(1)]}).json()["tasks"][function]
    poll(lambda: harper.finished([task]), "a result")
    foreign = jessie.register(double)
    (other,) = jessie.submit(mep, {foreign: [payload(1)]}).json()["tasks"][foreign]
    text = signed_in(site, name).page.text
    assert "&lt;b&gt;The lab&lt;/b&gt;" in text and "<b>" not in text
    assert mep.id in text and ours in text and hidden not in text
    assert task in text and other not in text and "finished" in text
    own, theirs = (u.id for u in mep.ueps)
    assert own in text and theirs not in text
    assert "online" in text and "offline" in text
    mep.stop()


def test_G5_pages_count_as_requests() -> None:
    with_few = Site(requests_per_second=0.001, requests_burst=3)
    try:
        start_without_broker(with_few)
        browser = signed_in(with_few, person(with_few, unique("harper")).username)
        seen = [browser.page.status_code]
        seen += [browser.get(f"{with_few.url}/").status_code for _ in range(3)]
        assert seen == [200, 200, 200, 429]
        assert int(browser.page.headers["Retry-After"]) > 0
    finally:
        with_few.remove()


def test_the_form_of_the_page(site: Site) -> None:
    """Language, title, one main heading, captions, heads with scope, no script."""
    name = unique("lee")
    add_user(site, name)
    browser = signed_in(site, name)
    found = Structure(browser.page.text).found
    assert found["html"][0]["lang"] == "en" and len(found["title"]) == len(found["h1"]) == 1
    assert len(found["main"]) == 1 and len(found["h2"]) == 2 and "script" not in found
    assert len(found.get("caption", [])) == len(found.get("table", []))
    assert all(th.get("scope") in ("col", "row") for th in found.get("th", []))
    assert "default-src 'none'" in browser.page.headers["Content-Security-Policy"]
    token = browser.token()
    url = f"{site.url}/v2/web/logout"
    browser.http.post(url, data={"form_token": token}, timeout=10)
    after = browser.get(f"{site.url}/")
    assert "Password" in after.text
