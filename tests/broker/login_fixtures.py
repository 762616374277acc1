"""A person with a browser: follows redirects, fills in forms, keeps cookies."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import requests
from gateway_fixtures import Site, User, poll
from sqlalchemy import Connection

from mepd.gateway import accounts, admin
from mepd.gateway.database import Database
from mepd.gateway.login import passwords

PASSWORD = "correct horse battery"


class _Page(HTMLParser):
    """The fields and buttons of a page's only form."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.forms = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.forms += tag == "form"
        if tag == "input" and values.get("name"):
            self.fields[str(values["name"])] = values.get("value") or ""


class Browser:
    """``page`` is the last answer."""

    def __init__(self) -> None:
        self.http = requests.Session()
        self.page: requests.Response

    def get(self, url: str, **kwargs: Any) -> requests.Response:
        self.page = self.http.get(url, timeout=30, **kwargs)
        return self.page

    def submit(self, follow: bool = True, **fields: str) -> requests.Response:
        """Send the page's form with these values in it."""
        form = _Page(self.page.text)
        assert form.forms == 1, self.page.text
        self.page = self.http.post(
            self.page.url,
            data={**form.fields, **fields},
            headers={"Origin": "{0.scheme}://{0.netloc}".format(urlsplit(self.page.url))},
            timeout=30,
            allow_redirects=follow,
        )
        return self.page

    def log_in(self, username: str, password: str = PASSWORD) -> requests.Response:
        assert "Password" in self.page.text, self.page.text
        return self.submit(username=username, password=password)

    def allow(self) -> str:
        """Consent; the code that is shown."""
        assert "Allow access?" in self.page.text, self.page.text
        self.submit(decision="allow")
        return self.code()

    def code(self) -> str:
        found = re.search(r'id="code"[^>]* value="([^"]+)"', self.page.text)
        assert found is not None, self.page.text
        return unescape(found[1])

    def token(self) -> str:
        return _Page(self.page.text).fields["form_token"]

    def leads_to(self) -> dict[str, str]:
        """The query of the address in a redirect."""
        where = urljoin(self.page.url, self.page.headers["Location"])
        return {k: v[0] for k, v in parse_qs(urlsplit(where).query).items()}


def start_without_broker(site: Site) -> None:
    """Logins need the store alone."""
    site.start_gateway(wait=False)

    def answers() -> bool:
        try:
            return requests.get(f"{site.url}/healthz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    poll(answers, "the gateway")


def add_user(site: Site, username: str, *options: str, password: str = PASSWORD) -> str:
    """Returns the identity's id."""
    text = site.run(
        "user", "add", "-c", str(site.config), *options, username, stdin=password + "\n"
    )
    return text.split()[1]


def person(site: Site, username: str, password: str | None = PASSWORD, **fields: str) -> User:
    """A user with a client and a token, written straight into the store: the commands take
    most of a second each."""
    db = Database(f"sqlite:///{site.dir}/gateway.db")
    hashed = passwords.make_hash(password) if password is not None else None

    def add(tx: Connection) -> User:
        made = User.__new__(User)
        made.site, made.username = site, username
        made.id = accounts.add_identity(tx, username, **fields)
        if hashed is not None:
            passwords.set_password(tx, made.id, hashed)
        made.client_id, made.client_secret = accounts.add_client(tx, made.id)
        made.token = accounts.add_token(tx, made.id, 3600, admin.TOKEN_SCOPES)[1]
        return made

    try:
        db.create()
        return db.write(add)
    finally:
        db.close()
