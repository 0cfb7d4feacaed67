--[[
Reads the usage of callers: each caller's ledger and history in one step, so that no day is counted twice or missed.

KEYS[1 .. 3L]   L callers, three keys each: the ledger, its history (layouts: prelude/ledger.lua), and the refused calls
                (layout: refused.lua)

ARGV[1]         cmsgpack {pinned, first, last, refused}
  pinned        µs of Unix time, for tests; 0 for the server's clock
  first, last   days since 1970 whose rows are read, both included; none if first > last
  refused       1 to read the refused calls too

Reply           cmsgpack {now, records}
  now           µs of Unix time
  records       {start, finish, used, rows, refused}, one a caller: of the ledger's period; {} where the bytes are not ours
  rows          {{day, requests, remaining, units, over}, …}: of the history, then the ledger's own day, whatever first
                and last are
  refused       {{day, throttle, quota, shadow_throttle, shadow_quota}, …}
]]
-- prelude: clock
-- prelude: holds
-- prelude: ledger

local CHUNK = 1000  -- fields in one HMGET; unpack() has room for 8000

local pinned, first, last, with_refused = unpack(cmsgpack.unpack(ARGV[1]))

local now = clock(pinned)

-- Calls `each` with every day and the value of its field in a hash; `suffix` ends the field's name.
local function each_day(hash, suffix, each)
  if redis.call('EXISTS', hash) == 0 then return end
  for from = first, last, CHUNK do
    local days = {}
    for day = from, math.min(last, from + CHUNK - 1) do days[#days + 1] = string.format('%.0f', day) .. suffix end
    for i, value in ipairs(redis.call('HMGET', hash, unpack(days))) do
      if value then each(from + i - 1, value) end
    end
  end
end

-- The rows of the history; false where one is not ours.
local function rows_of(history)
  local rows, bad = {}, false
  each_day(history, '', function(day, row)
    if not is_row(row) then
      bad = true
      return
    end
    rows[#rows + 1] = {day, read_row(row)}
  end)
  return not bad and rows
end

local function refused_of(hash)
  local counts, days = {}, {}
  for position, suffix in ipairs({':throttle', ':quota', ':shadow_throttle', ':shadow_quota'}) do
    each_day(hash, suffix, function(day, count)
      local row = days[day]
      if not row then
        row = {day, 0, 0, 0, 0}
        days[day], counts[#counts + 1] = row, row
      end
      row[position + 1] = tonumber(count) or 0
    end)
  end
  return counts
end

local function record(ledger, history, refused)
  if is_other(ledger, 'string') or is_other(history, 'hash') or is_other(refused, 'hash') then return {} end
  local rows = rows_of(history)
  if not rows then return {} end
  local counts = with_refused == 1 and refused_of(refused) or {}
  local raw = redis.call('GET', ledger)
  if not raw then return {0, 0, 0, rows, counts} end
  local v = read_ledger(raw, now)
  if not v then return {} end
  if v.day > 0 then rows[#rows + 1] = {v.day, v.day_used, v.day_left, v.day_units, v.day_over} end
  return {v.start, v.finish, v.used, rows, counts}
end

local records = {}
for i = 1, #KEYS, 3 do records[#records + 1] = record(KEYS[i], KEYS[i + 1], KEYS[i + 2]) end
return cmsgpack.pack({now, records})
