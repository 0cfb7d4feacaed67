--[[
Reads the states of quotas.

KEYS      ledgers of callers or customers, and values of their own   (layouts: prelude/ledger.lua, prelude/quota.lua)

ARGV[1]   cmsgpack {pinned}: µs of Unix time, for tests; 0 for the server's clock

Reply     cmsgpack {now, states}
  now     µs of Unix time
  states  {start, finish, used}, one a key; zeros where nothing is stored, {} where the bytes are not ours
]]
-- prelude: clock
-- prelude: holds
-- prelude: ledger
-- prelude: quota

local now = clock(cmsgpack.unpack(ARGV[1])[1])

local function state(key)
  if is_other(key, 'string') then return {} end
  local raw = redis.call('GET', key)
  if not raw then return {0, 0, 0} end
  local v = read_quota(raw, now) or read_ledger(raw, now)
  return v and {v.start, v.finish, v.used} or {}
end

local states = {}
for i, key in ipairs(KEYS) do states[i] = state(key) end
return cmsgpack.pack({now, states})
