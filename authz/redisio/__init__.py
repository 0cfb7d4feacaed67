"""The only client of Redis: addresses, connections, masters, and our Lua scripts."""
