"""The store's tables of logins, grants and policies; see schema.py for the others.

Secrets are here as hashes only, but for two that must be used as they are: the key that
signs id tokens, and the PKCE verifier of a login that is on its way to a provider.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, String, Table, Text

from mepd.gateway.schema import metadata

# --- logins ---------------------------------------------------------------------------
passwords = Table(
    "passwords",
    metadata,
    Column("identity_id", String(36), primary_key=True),
    Column("hash", Text, nullable=False),
    Column("changed", Float, nullable=False),
)

# failed logins, by account and by address
login_attempts = Table(
    "login_attempts",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last", Float, nullable=False),
)

# a browser's session; hash is of its cookie
sessions = Table(
    "sessions",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("identity_id", String(36), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

# when which identity has last proved itself in a session
authentications = Table(
    "authentications",
    metadata,
    Column("session_id", String(36), primary_key=True),
    Column("identity_id", String(36), primary_key=True),
    Column("time", Float, nullable=False),
    Column("mfa", Boolean, nullable=False),
    Index("authentications_identity", "identity_id"),
)

# whom an external provider's subject is here
external_subjects = Table(
    "external_subjects",
    metadata,
    Column("issuer", String(512), primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("identity_id", String(36), nullable=False),
)

# logins on their way to an external provider, by the hash of their state
external_logins = Table(
    "external_logins",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("browser", String(64), nullable=False),
    Column("nonce_hash", String(64), nullable=False),
    Column("verifier", String(128), nullable=False),
    Column("next", Text, nullable=False),
    Column("fresh", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)

# --- grants ---------------------------------------------------------------------------
# applications without a secret; those with one are in the table clients
apps = Table(
    "apps",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("revoked", Boolean, nullable=False),
)

redirect_uris = Table(
    "redirect_uris",
    metadata,
    Column("client_id", String(36), primary_key=True),
    Column("uri", String(512), primary_key=True),
)

codes = Table(
    "codes",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("client_id", String(36), nullable=False),
    Column("identity_id", String(36), nullable=False),
    Column("session_id", String(36), nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("challenge", String(64)),
    Column("nonce", Text),
    Column("offline", Boolean, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Boolean, nullable=False),
    Column("grant_id", String(36)),
)

# what a person has granted to a client at one login: the family of its tokens
grants = Table(
    "grants",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("identity_id", String(36), nullable=False, index=True),
    Column("client_id", String(36), nullable=False, index=True),
    Column("session_id", String(36), nullable=False),
    Column("created", Float, nullable=False),
    Column("revoked", Boolean, nullable=False),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("grant_id", String(36), nullable=False, index=True),
    Column("scope", Text, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Boolean, nullable=False),
)

consents = Table(
    "consents",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity_id", String(36), nullable=False),
    Column("client_id", String(36), nullable=False),
    Column("scope", String(256), nullable=False),
    Column("offline", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("consents_key", "identity_id", "client_id", "scope", unique=True),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("pem", Text, nullable=False),
    Column("created", Float, nullable=False),
)

# --- policies -------------------------------------------------------------------------
projects = Table(
    "projects",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("contact_email", Text, nullable=False),
    Column("admin_ids", JSON, nullable=False),
    Column("created", Float, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(36), nullable=False, index=True),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("high_assurance", Boolean, nullable=False),
    Column("timeout", Integer),
    Column("required_mfa", Boolean, nullable=False),
    Column("include", JSON),
    Column("exclude", JSON),
    Column("created", Float, nullable=False),
)
