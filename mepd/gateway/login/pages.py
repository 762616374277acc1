"""The pages that a person sees: plain HTML without a script, readable by any browser.

All text goes through ``esc``; the only style is in the page, named by its hash in the
Content-Security-Policy.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from urllib.parse import urlsplit

from fastapi.responses import HTMLResponse

_STYLE = """
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 3rem auto;
 padding: 0 1rem; color: #1a1a1a; background: #fff }
label { display: block; margin-top: 1rem; font-weight: 600 }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .4rem; border: 1px solid #555 }
button { font: inherit; margin: 1.5rem 1rem 0 0; padding: .4rem 1.2rem }
:focus-visible { outline: 3px solid #0b57d0; outline-offset: 2px }
.error { border-left: .3rem solid #b00020; padding-left: .8rem }
.note { border-left: .3rem solid #0b57d0; padding-left: .8rem }
body:has(table) { max-width: 64rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
caption { text-align: left; font-weight: 600 }
th, td { border: 1px solid #555; padding: .3rem .6rem; text-align: left; vertical-align: top }
td, th code { font-weight: 400; overflow-wrap: anywhere }
.code { font: 1.2rem/1.5 monospace; overflow-wrap: anywhere; user-select: all }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")


def esc(text: str) -> str:
    """Text for an element or a quoted attribute."""
    return escape(text, quote=True)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def page(title: str, body: str, status: int = 200, leads_to: str | None = None) -> HTMLResponse:
    """``leads_to``: where a form of the page may end by a redirect, besides this service."""
    forms = "'self'" if leads_to is None else f"'self' {_origin(leads_to)}"
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {forms};"
        " frame-ancestors 'none'; base-uri 'none'"
    )
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{esc(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return HTMLResponse(
        text,
        status,
        {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        },
    )


def problem(title: str, text: str, status: int) -> HTMLResponse:
    """A page that says what is wrong."""
    return page(title, f'<p class="error" role="alert">{esc(text)}</p>', status)


def _hidden(token: str) -> str:
    return f'<input type="hidden" name="form_token" value="{esc(token)}">'


def sign_out_form(action: str, token: str) -> str:
    return (
        f'<form method="post" action="{esc(action)}">\n{_hidden(token)}\n'
        '<button type="submit">Sign out</button>\n</form>'
    )


def _alert(error: str | None) -> str:
    return f'<p class="error" role="alert" id="error">{esc(error)}</p>\n' if error else ""


def _note(message: str | None) -> str:
    if not message:
        return ""
    return f'<p class="note">The application says: <q>{esc(message)}</q></p>\n'


def _password_form(token: str, username: str, error: str | None) -> str:
    described = ' aria-describedby="error" aria-invalid="true"' if error else ""
    return (
        f'<form method="post">\n{_hidden(token)}\n'
        '<label for="username">User name</label>\n'
        f'<input id="username" name="username" value="{esc(username)}" autocomplete="username"'
        f' autocapitalize="none" spellcheck="false" required autofocus{described}>\n'
        '<label for="password">Password</label>\n'
        '<input id="password" name="password" type="password"'
        f' autocomplete="current-password" required{described}>\n'
        '<button type="submit">Sign in</button>\n</form>'
    )


def _provider_link(url: str, name: str) -> str:
    return f'<p><a href="{esc(url)}">Sign in with {esc(name)}</a></p>'


def login_page(
    token: str,
    *,
    by_password: bool,
    provider: tuple[str, str] | None,
    username: str = "",
    message: str | None = None,
    error: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    """``provider``: name of an external provider, and where its login begins."""
    forms = [_password_form(token, username, error)] if by_password else []
    if provider is not None:
        name, url = provider
        forms.append(_provider_link(url, name))
    return page("Sign in", _note(message) + _alert(error) + "\n".join(forms), status)


def consent_page(
    token: str, *, username: str, client: str, label: str | None, scopes: list[str], leads_to: str
) -> HTMLResponse:
    """Asks the person whether the client may have what it wants."""
    items = "".join(f"<li>{esc(text)}</li>\n" for text in scopes)
    named = f" ({esc(label)})" if label else ""
    body = (
        f"<p>You are signed in as <strong>{esc(username)}</strong>.</p>\n"
        f"<p><strong>{esc(client)}</strong>{named} would like to:</p>\n<ul>\n{items}</ul>\n"
        f'<form method="post">\n{_hidden(token)}\n'
        '<button type="submit" name="decision" value="allow">Allow</button>\n'
        '<button type="submit" name="decision" value="deny">Deny</button>\n</form>'
    )
    return page("Allow access?", body, 200, leads_to)


def code_page(code: str) -> HTMLResponse:
    """The code, to be copied into the program that waits for it."""
    body = (
        "<p>Copy this code into the program that asked you to sign in."
        " It works once, for ten minutes.</p>\n"
        '<label for="code">Authorization code</label>\n'
        f'<input id="code" name="code" class="code" value="{esc(code)}" readonly autofocus>'
    )
    return page("Authorization code", body)
