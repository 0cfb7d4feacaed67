-- A caller's ledger is a string of numbers. They are packed because tostring() keeps 14 digits; all are integers below
-- 2^53. It has one of two formats:
--   '>Bddddddddd':   2; debt (1/m tokens), at (µs), n, m of the plan's throttle; start (µs), used of the quota;
--                    day (since 1970), requests, left of the usage
--   '>Bdddddddddddd': 3; all of these, then finish (µs), the end of the quota's period, 0 if it is not kept; units, over
-- The first is written while finish is 0, each request of the day was one unit, and none was over a limit.
-- A customer's ledger is one, too; it has no usage. Holds may follow (prelude/holds.lua).
-- A caller's history is a hash: day -> '>dd' requests, left, or '>dddd' requests, left, units, over. `left` is what
-- remained of the first quota, -1 without one. `over` are units beyond the limit of a quota with overage.
local DAY_US, DAY_MS = 86400000000, 86400000

local function is_other(key, expected)
  local type = redis.call('TYPE', key).ok
  return type ~= expected and type ~= 'none'
end

local function new_ledger(at)
  return {
    debt = 0, at = at, n = 0, m = 0, start = 0, used = 0, finish = 0,
    day = 0, day_used = 0, day_left = -1, day_units = 0, day_over = 0,
  }
end

-- The ledger in these bytes; false where they are not ours, so that they are never taken for an empty one. The table is
-- made at once: one that grows field by field is copied again and again.
local function read_ledger(raw, now, returning)
  local format = raw:byte()
  local size = format == 2 and 73 or format == 3 and 97
  if not size or #raw < size then return false end
  local debt, at, n, m, start, used, day, day_used, day_left = struct.unpack('>ddddddddd', raw, 2)
  local finish, day_units, day_over = 0, day_used, 0
  if format == 3 then finish, day_units, day_over = struct.unpack('>ddd', raw, 74) end
  local v = {
    debt = debt, at = at, n = n, m = m, start = start, used = used, finish = finish,
    day = day, day_used = day_used, day_left = day_left, day_units = day_units, day_over = day_over,
  }
  return #raw == size and v or read_holds(v, raw, size, now, returning)
end

local function pack_ledger(v)
  local raw
  if v.finish == 0 and v.day_units == v.day_used and v.day_over == 0 then
    raw = struct.pack(
      '>Bddddddddd', 2, v.debt, v.at, v.n, v.m, v.start, v.used, v.day, v.day_used, v.day_left)
  else
    raw = struct.pack(
      '>Bdddddddddddd', 3, v.debt, v.at, v.n, v.m, v.start, v.used, v.day, v.day_used, v.day_left,
      v.finish, v.day_units, v.day_over)
  end
  return v.holds and with_holds(raw, v) or raw
end

local function is_row(raw) return #raw == 16 or #raw == 32 end

-- Returns requests, left, units, over.
local function read_row(raw)
  if #raw == 32 then return struct.unpack('>dddd', raw) end
  local used, left = struct.unpack('>dd', raw)
  return used, left, used, 0
end

local function pack_row(used, left, units, over)
  if units == used and over == 0 then return struct.pack('>dd', used, left) end
  return struct.pack('>dddd', used, left, units, over)
end

-- The row of the ledger's day.
local function day_row(v) return pack_row(v.day_used, v.day_left, v.day_units, v.day_over) end

-- Begin a day in the ledger, with the row that it has in the history already, if any.
local function begin_day(v, day, row)
  v.day, v.day_used, v.day_left, v.day_units, v.day_over = day, 0, -1, 0, 0
  if row then v.day_used, v.day_left, v.day_units, v.day_over = read_row(row) end
end

-- The life of a bucket: until it is full, once its holds have ended; 400 days for one that never fills.
local function bucket_ms(v)
  if v.holds then
    local debt = v.debt + v.held_tokens * v.m
    return v.n > 0 and math.ceil(debt / v.n / 1000) + 501 or 34560000000
  end
  if v.debt <= 0 then return 1 end
  return v.n > 0 and math.ceil(v.debt / v.n / 1000) + 1 or 34560000000
end

-- The life of a ledger: as long as its bucket, its usage, and a quota's longest period. A month is that long after its
-- billing day has moved.
local function ledger_ms(v, retention) return math.max(bucket_ms(v), math.max(retention, 62) * 86400000) end
