--[[
Reads the states of quotas.

KEYS      ledgers of callers or customers, and values of their own   (layouts: prelude/ledger.lua, prelude/quota.lua)

ARGV[1]   cmsgpack {pinned}: µs of Unix time, for tests; 0 for the server's clock

Reply     cmsgpack {now, states}
  now     µs of Unix time
  states  {start, finish, used}, one a key; zeros where nothing is stored, {} where the bytes are not ours
]]
-- prelude: clock
-- prelude: ledger
-- prelude: quota

local function state(key)
  if is_other(key, 'string') then return {} end
  local raw = redis.call('GET', key)
  if not raw then return {0, 0, 0} end
  local v = read_quota(raw) or read_ledger(raw)
  return v and {v.start, v.finish, v.used} or {}
end

local states = {}
for i, key in ipairs(KEYS) do states[i] = state(key) end
return cmsgpack.pack({clock(cmsgpack.unpack(ARGV[1])[1]), states})
