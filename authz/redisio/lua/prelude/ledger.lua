-- A caller's ledger is a string, '>Bddddddddd': 2; debt (1/m tokens), at (µs), n, m of the plan's throttle; start (µs),
-- used of the quota; day (since 1970), day_used, day_left of the usage. All are integers below 2^53. They are packed
-- because tostring() keeps 14 digits.
-- A caller's history is a hash: day -> '>dd' used, left. `left` is what remained of the quota, -1 without one.
local LEDGER, LEDGER_FORMAT, LEDGER_BYTES = 2, '>Bddddddddd', 73
local ROW_FORMAT, ROW_BYTES = '>dd', 16
local DAY_US, DAY_MS = 86400000000, 86400000
local LONGEST_PERIOD = 31  -- days: a ledger outlives every quota in it
local KEEP_FOREVER_MS = 400 * DAY_MS  -- a bucket that never fills

local function is_other(key, expected)
  local type = redis.call('TYPE', key).ok
  return type ~= expected and type ~= 'none'
end

local function new_ledger(at)
  return {debt = 0, at = at, n = 0, m = 0, start = 0, used = 0, day = 0, day_used = 0, day_left = -1}
end

-- The ledger in these bytes; false where they are not ours, so that they are never taken for an empty one.
local function read_ledger(raw)
  if #raw ~= LEDGER_BYTES or raw:byte() ~= LEDGER then return false end
  local v, format = {}, nil
  format, v.debt, v.at, v.n, v.m, v.start, v.used, v.day, v.day_used, v.day_left = struct.unpack(LEDGER_FORMAT, raw)
  return v
end

local function pack_ledger(v)
  return struct.pack(
    LEDGER_FORMAT, LEDGER, v.debt, v.at, v.n, v.m, v.start, v.used, v.day, v.day_used, v.day_left)
end

local function read_row(raw) return struct.unpack(ROW_FORMAT, raw) end
local function pack_row(used, left) return struct.pack(ROW_FORMAT, used, left) end

-- The life of a bucket: until it is full.
local function bucket_ms(v)
  if v.debt <= 0 then return 1 end
  return v.n > 0 and math.ceil(v.debt / v.n / 1000) + 1 or KEEP_FOREVER_MS
end

-- The life of a ledger: as long as its bucket, its usage, and the longest period of a quota.
local function ledger_ms(v, retention) return math.max(bucket_ms(v), math.max(retention, LONGEST_PERIOD) * DAY_MS) end
