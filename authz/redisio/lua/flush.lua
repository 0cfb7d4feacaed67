--[[
Adds the calls to a caller's ledger that a sidecar admitted on its own while Redis was away.

KEYS[1]   the worker's highest flush number applied (text), kept for a day
KEYS[2]   the caller's ledger, and
KEYS[3]   its history           (layouts: prelude/ledger.lua)

ARGV[1]   cmsgpack {number, amount, day, limit, start, end, retention}
  number  of this flush, growing by worker; a number that is not above the highest applied is ignored
  amount  admitted calls
  day     on which they were admitted, in days since 1970
  limit   of the quota they were admitted under, over [start, end) in µs; limit -1 without a quota

Reply     cmsgpack {status, left}; status is 'applied', 'repeated' or 'bad state' (nothing is written)
  left    of the quota after it, or -1 where the ledger has another period, no quota was named, or nothing was written
]]
-- prelude: ledger

local FLUSH_MS = DAY_MS

local number, amount, day, limit, start, finish, retention = unpack(cmsgpack.unpack(ARGV[1]))

local applied = redis.call('GET', KEYS[1])
local repeated = applied and tonumber(applied) >= number
local BAD_STATE = cmsgpack.pack({'bad state', -1})

if is_other(KEYS[2], 'string') or is_other(KEYS[3], 'hash') then return BAD_STATE end

local raw = redis.call('GET', KEYS[2])
local v = raw and read_ledger(raw) or not raw and new_ledger(0)
if not v then return BAD_STATE end

local row = redis.call('HGET', KEYS[3], day)
if row and #row ~= ROW_BYTES then return BAD_STATE end

if repeated then
  return cmsgpack.pack({'repeated', limit >= 0 and start == v.start and math.max(0, limit - v.used) or -1})
end

-- Roll an older ledger forward, as a call of that day would have.
if limit >= 0 and start > v.start then v.start, v.used = start, 0 end
local current = limit >= 0 and start == v.start
if current then v.used = v.used + amount end

if day > v.day then
  if v.day_used > 0 then redis.call('HSET', KEYS[3], v.day, pack_row(v.day_used, v.day_left)) end
  v.day, v.day_used, v.day_left = day, 0, -1
  if row then v.day_used, v.day_left = read_row(row) end
  redis.call('HDEL', KEYS[3], day)
end
if day == v.day then
  v.day_used = v.day_used + amount
  if limit >= 0 then v.day_left = math.max(0, limit - v.used) end
else
  if current then v.day_left = math.max(0, limit - v.used) end
  local row_used, row_left = 0, current and math.max(0, limit - v.used + amount) or limit
  if row then row_used, row_left = read_row(row) end
  if row_left >= 0 then row_left = math.max(0, row_left - amount) end
  redis.call('HSET', KEYS[3], day, pack_row(row_used + amount, row_left))
end

redis.call('SET', KEYS[2], pack_ledger(v), 'PX', ledger_ms(v, retention))
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('PEXPIRE', KEYS[3], retention * DAY_MS) end
redis.call('SET', KEYS[1], string.format('%.0f', number), 'PX', FLUSH_MS)
return cmsgpack.pack({'applied', current and math.max(0, limit - v.used) or -1})
