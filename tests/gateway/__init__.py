"""The edge: credentials, both faces, and what must not pass them."""
