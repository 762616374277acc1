"""Authentication policies: who may use an endpoint, and how lately he must have logged in."""
