--[[
Reads callers and quotas in bulk: only those that have anything, and only the numbers that sums of days need.

KEYS[1 .. 3L]   L ledgers, then their L histories (layouts: prelude/ledger.lua), then their L refused calls
                (layout: refused.lua)
KEYS[3L+1 ..]   states of quotas: ledgers of customers, and values of their own (layout: prelude/quota.lua)

ARGV[1]         cmsgpack {pinned, L, days}
  pinned        µs of Unix time, for tests; 0 for the server's clock
  days          {day, …}: days since 1970 that are read, ascending

Reply           cmsgpack {now, callers, states, bad}
  now           µs of Unix time
  callers       {{caller, start, finish, used, rows, refused}, …}; `caller` is 1 to L, the next three are of the ledger
  rows          {{day, requests, units, over}, …}: of the history, then the ledger's own day, whatever it is
  refused       {{day, throttle, quota, shadow_throttle, shadow_quota}, …}
  states        {{quota, start, finish, used}, …}; `quota` counts from 1
  bad           the positions in KEYS of values that are not ours; they are left out
]]
-- prelude: clock
-- prelude: holds
-- prelude: ledger
-- prelude: quota

local CHUNK = 1000  -- keys in one MGET; unpack() has room for 8000

local pinned, L, wanted = unpack(cmsgpack.unpack(ARGV[1]))

local now, bad = clock(pinned), {}

local function values(from, to)
  local found = {}
  for start = from, to, CHUNK do
    local some = redis.call('MGET', unpack(KEYS, start, math.min(to, start + CHUNK - 1)))
    for _, value in ipairs(some) do found[#found + 1] = value end
  end
  return found
end

local REASONS = {':throttle', ':quota', ':shadow_throttle', ':shadow_quota'}

local days, reasons = {}, {}  -- the fields of a history, and those of refused calls
for _, day in ipairs(wanted) do
  local text = string.format('%.0f', day)
  days[#days + 1] = text
  for _, reason in ipairs(REASONS) do reasons[#reasons + 1] = text .. reason end
end

-- The values of fields in a hash; none if the key is not a hash.
local function fields(position, names)
  local found = redis.pcall('HMGET', KEYS[position], unpack(names))
  if not found.err then return found end
  bad[#bad + 1] = position
  return {}
end

local function rows_of(position)
  local rows = {}
  for i, raw in ipairs(fields(position, days)) do
    if raw and is_row(raw) then
      local requests, _, units, over = read_row(raw)
      rows[#rows + 1] = {wanted[i], requests, units, over}
    end
  end
  return rows
end

local function refused_of(position)
  local found, counts = fields(position, reasons), {}
  for i = 1, #found, 4 do
    local row, is_empty = {wanted[(i + 3) / 4]}, true
    for at = i, i + 3 do
      row[#row + 1] = tonumber(found[at] or 0) or 0
      is_empty = is_empty and not found[at]
    end
    if not is_empty then counts[#counts + 1] = row end
  end
  return counts
end

-- A caller's record; nil without any use. A history has no day of a caller whose ledger is older.
local function caller(i, raw)
  local v = raw and read_ledger(raw, now)
  if raw and not v then bad[#bad + 1] = i end
  local rows = v and v.day > wanted[1] and rows_of(L + i) or {}
  if v and v.day > 0 then rows[#rows + 1] = {v.day, v.day_used, v.day_units, v.day_over} end
  local refused = refused_of(2 * L + i)
  if not v and #refused == 0 then return nil end
  return {i, v and v.start or 0, v and v.finish or 0, v and v.used or 0, rows, refused}
end

local callers = {}
for i, raw in ipairs(values(1, L)) do callers[#callers + 1] = caller(i, raw) end

local states = {}
for i, raw in ipairs(values(3 * L + 1, #KEYS)) do
  local v = raw and (read_quota(raw, now) or read_ledger(raw, now))
  if v then
    states[#states + 1] = {i, v.start, v.finish, v.used}
  elseif raw then
    bad[#bad + 1] = 3 * L + i
  end
end

return cmsgpack.pack({now, callers, states, bad})
