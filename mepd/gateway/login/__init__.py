"""How a person proves who he is, and the browser's session that remembers it."""
