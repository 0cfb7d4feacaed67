-- Redis runs the scripts with Lua 5.1 and these names. `luacheck authz/redisio/lua` reads this file.
std = "lua51"
read_globals = { "ARGV", "KEYS", "cjson", "cmsgpack", "redis", "struct" }
max_line_length = false
-- A value that is unpacked on the way to the next one may stay unused.
unused_secondaries = false
ignore = { "231/format", "431" }
