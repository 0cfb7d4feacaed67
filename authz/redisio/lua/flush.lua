--[[
Adds the calls to a caller's ledger that a sidecar admitted on its own while Redis was away.

KEYS[1]     the worker's highest flush number applied (text), kept for a day
KEYS[2]     the caller's ledger, and
KEYS[3]     its history                                          (layouts: prelude/ledger.lua)
KEYS[4 .. ] where quotas are kept that are not in that ledger: a customer's ledger, a value of its own
    ..      the stream of alerts, if a quota has any

ARGV[1]     cmsgpack {number, requests, units, day, pinned, retention, quotas, alerts}
  number    of this flush, growing by worker; a number that is not above the highest applied is ignored
  requests  admitted calls, and their units
  day       on which they were admitted, in days since 1970
  pinned    µs of Unix time, for tests; 0 for the server's clock
  quotas    {{place, rule}, …} under which they were admitted, in order   (rule: prelude/quota.lua)
  place     0 for the caller's ledger; k for a value of its own at KEYS[3 + k]; -k for a customer's ledger there
  alerts    1 if the last key is the stream of alerts

Reply       cmsgpack {status, used}; status is 'applied', 'repeated' or 'bad state' (nothing is written)
  used      of each quota after it; false where another period is stored
]]
-- prelude: clock
-- prelude: holds
-- prelude: ledger
-- prelude: quota

local FLUSH_MS = DAY_MS

local number, requests, units, day, pinned, retention, quotas, alerts = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(pinned)

local applied = redis.call('GET', KEYS[1])
local repeated = applied and tonumber(applied) >= number
local BAD_STATE = cmsgpack.pack({'bad state', {}})

if is_other(KEYS[2], 'string') or is_other(KEYS[3], 'hash') then return BAD_STATE end
if alerts == 1 and is_other(KEYS[#KEYS], 'stream') then return BAD_STATE end

-- Return the value at this place as a table; false if its bytes are not in our format.
local function read(place)
  local key = KEYS[place == 0 and 2 or 3 + math.abs(place)]
  if is_other(key, 'string') then return false end
  local raw = redis.call('GET', key)
  if place > 0 then return read_quota(raw, now) end
  return raw and read_ledger(raw, now) or not raw and new_ledger(0)
end

local values = {[0] = read(0)}
if not values[0] then return BAD_STATE end
for _, quota in ipairs(quotas) do
  local place = quota[1]
  if values[place] == nil then values[place] = read(place) end
  if not values[place] then return BAD_STATE end
end

local row = redis.call('HGET', KEYS[3], day)
if row and not is_row(row) then return BAD_STATE end

local function left_of(v, rule) return math.max(0, rule[2] - v.used) end

if repeated then
  local counts = {}
  for i, quota in ipairs(quotas) do
    local v, rule = values[quota[1]], quota[2]
    counts[i] = rule[3] == v.start and v.used
  end
  return cmsgpack.pack({'repeated', counts})
end

-- Add to each quota whose period is the rule's: a later one begins, as with a call of that day; an earlier one is over.
local counts, events, over, first = {}, {}, 0, nil
for i, quota in ipairs(quotas) do
  local v, rule = values[quota[1]], quota[2]
  local amount = rule[5] == 1 and requests or units
  adopt(v, rule)
  if restarts(v, rule) or rule[3] == v.start or v.finish > 0 and rule[4] > v.start then
    local key = KEYS[quota[1] == 0 and 2 or 3 + math.abs(quota[1])]
    over = math.max(over, use(v, rule, amount, key, events))
    counts[i] = v.used
  else
    counts[i] = false
  end
  if i == 1 then first = {limit = rule[2], left = counts[1] and left_of(v, rule) or -1, amount = amount} end
end

local v = values[0]
if day > v.day then
  if v.day_used > 0 then redis.call('HSET', KEYS[3], v.day, day_row(v)) end
  begin_day(v, day, row)
  redis.call('HDEL', KEYS[3], day)
end
if day == v.day then
  v.day_used, v.day_units, v.day_over = v.day_used + requests, v.day_units + units, v.day_over + over
  if first then v.day_left = first.left >= 0 and first.left or math.max(0, first.limit - v.used) end
else
  if first and first.left >= 0 then v.day_left = first.left end
  local row_used, row_left, row_units, row_over = 0, -1, 0, 0
  if first then row_left = first.left >= 0 and first.left + first.amount or first.limit end
  if row then row_used, row_left, row_units, row_over = read_row(row) end
  if row_left >= 0 then row_left = math.max(0, row_left - (first and first.amount or units)) end
  redis.call('HSET', KEYS[3], day, pack_row(row_used + requests, row_left, row_units + units, row_over + over))
end

for place, value in pairs(values) do
  if place > 0 and value.dirty then
    write_quota(KEYS[3 + place], value, now)
  elseif place < 0 and value.dirty then
    redis.call('SET', KEYS[3 - place], pack_ledger(value), 'PX', ledger_ms(value, retention))
  end
end
redis.call('SET', KEYS[2], pack_ledger(v), 'PX', ledger_ms(v, retention))
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('PEXPIRE', KEYS[3], retention * DAY_MS) end
redis.call('SET', KEYS[1], string.format('%.0f', number), 'PX', FLUSH_MS)
log_alerts(KEYS[#KEYS], events, now)
return cmsgpack.pack({'applied', counts})
