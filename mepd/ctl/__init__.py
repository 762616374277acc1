"""mepctl, as whoever calls it."""
