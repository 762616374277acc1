"""OAuth 2.0 and OpenID Connect, as far as stock clients use them."""
