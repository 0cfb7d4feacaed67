-- Redis runs the scripts with Lua 5.1 and these names. `luacheck authz/redisio/lua` reads this file.
std = "lua51"
read_globals = { "ARGV", "KEYS", "cjson", "cmsgpack", "redis", "struct" }
max_line_length = false
-- A value that is unpacked on the way to the next one may stay unused.
unused_secondaries = false
ignore = { "231/format", "431" }
-- A script uses the names of its preludes (`-- prelude: NAME`), whose text is put in its place when it is loaded.
files["authz/redisio/lua/*.lua"].read_globals = {
  "clock",
  "read_holds", "with_holds",
  "DAY_MS", "DAY_US", "begin_day", "bucket_ms", "day_row", "is_other", "is_row", "ledger_ms", "new_ledger", "pack_ledger",
  "pack_row", "read_ledger", "read_row",
  "FOREVER", "adopt", "log_alerts", "read_quota", "restarts", "use", "used", "write_quota",
  "read_head",
  "log_commit", "text",
  "keep_newest", "note_due",
}
files["authz/redisio/lua/prelude/*.lua"].read_globals = { "read_holds", "with_holds" }
files["authz/redisio/lua/prelude/*.lua"].ignore = { "211", "231" }
