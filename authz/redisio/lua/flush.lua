--[[
Adds to a caller's ledger what a sidecar admitted on its own while Redis was away.

KEYS[1]   the worker's highest flush number applied (text), kept for a day
KEYS[2]   the caller's ledger   (layout: admit.lua)
KEYS[3]   its history

ARGV[1]   cmsgpack {number, amount, day, limit, start, end, retention}
  number  of this flush, growing by worker; one that is not above the highest applied is ignored
  amount  admitted calls
  day     on which they were admitted, in days since 1970
  limit   of the quota they were admitted under, over [start, end) in µs; limit -1 without a quota

Reply     cmsgpack {status, left}; status is 'applied', 'repeated' or 'bad state' (nothing is written)
  left    of the quota after it, or -1 where the ledger has another period, no quota was named, or nothing was written
]]

local LEDGER = 2
local FLUSH_MS = 86400000
local KEEP_FOREVER_MS = 400 * 86400000  -- a bucket that never fills
local LONGEST_PERIOD = 31  -- days: a ledger outlives every quota in it

local number, amount, day, limit, start, finish, retention = unpack(cmsgpack.unpack(ARGV[1]))

local applied = redis.call('GET', KEYS[1])
local repeated = applied and tonumber(applied) >= number
local BAD_STATE = cmsgpack.pack({'bad state', -1})

local function is_other(key, expected)
  local type = redis.call('TYPE', key).ok
  return type ~= expected and type ~= 'none'
end

if is_other(KEYS[2], 'string') or is_other(KEYS[3], 'hash') then return BAD_STATE end

local debt, at, n, m, stored, used, today, day_used, day_left = 0, 0, 0, 0, 0, 0, 0, 0, -1
local raw, format = redis.call('GET', KEYS[2])
if raw then
  if #raw ~= 73 or raw:byte() ~= LEDGER then return BAD_STATE end
  format, debt, at, n, m, stored, used, today, day_used, day_left = struct.unpack('>Bddddddddd', raw)
end

local row = redis.call('HGET', KEYS[3], day)
if row and #row ~= 16 then return BAD_STATE end

if repeated then
  return cmsgpack.pack({'repeated', limit >= 0 and start == stored and math.max(0, limit - used) or -1})
end

-- Roll an older ledger forward, as a call of that day would have.
if limit >= 0 and start > stored then stored, used = start, 0 end
local current = limit >= 0 and start == stored
if current then used = used + amount end

if day > today then
  if day_used > 0 then redis.call('HSET', KEYS[3], today, struct.pack('>dd', day_used, day_left)) end
  today, day_used, day_left = day, 0, -1
  if row then day_used, day_left = struct.unpack('>dd', row) end
  redis.call('HDEL', KEYS[3], day)
end
if day == today then
  day_used = day_used + amount
  if limit >= 0 then day_left = math.max(0, limit - used) end
else
  if current then day_left = math.max(0, limit - used) end
  local row_used, row_left = 0, current and math.max(0, limit - used + amount) or limit
  if row then row_used, row_left = struct.unpack('>dd', row) end
  if row_left >= 0 then row_left = math.max(0, row_left - amount) end
  redis.call('HSET', KEYS[3], day, struct.pack('>dd', row_used + amount, row_left))
end

local ms = math.max(retention, LONGEST_PERIOD) * 86400000
if debt > 0 then ms = math.max(ms, n > 0 and math.ceil(debt / n / 1000) + 1 or KEEP_FOREVER_MS) end
redis.call('SET', KEYS[2], struct.pack('>Bddddddddd', LEDGER, debt, at, n, m, stored, used, today, day_used, day_left), 'PX', ms)
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('PEXPIRE', KEYS[3], retention * 86400000) end
redis.call('SET', KEYS[1], string.format('%.0f', number), 'PX', FLUSH_MS)
return cmsgpack.pack({'applied', current and math.max(0, limit - used) or -1})
