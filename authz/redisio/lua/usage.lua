--[[
Reads the usage of callers: each caller's ledger and history in one step, so that no day is counted twice or missed.

KEYS[1 .. 2L]   L callers, two keys each: the ledger, and its history   (layouts: prelude/ledger.lua)

ARGV[1]         cmsgpack {pinned, first, last}
  pinned        µs of Unix time, for tests; 0 for the server's clock
  first, last   days since 1970 whose rows are read, both included; none if first > last

Reply           cmsgpack {now, records}
  now           µs of Unix time
  records       {start, used, rows}, one a caller: of the ledger's period; {} where the bytes are not ours
  rows          {{day, used, remaining}, …}: of the history, then the ledger's own day, whatever first and last are
]]
-- prelude: clock
-- prelude: ledger

local CHUNK = 1000  -- fields in one HMGET; unpack() has room for 8000

local pinned, first, last = unpack(cmsgpack.unpack(ARGV[1]))

local now = clock(pinned)

-- The rows of the history; false where one is not ours.
local function rows_of(history)
  local rows = {}
  for from = first, last, CHUNK do
    local days = {}
    for day = from, math.min(last, from + CHUNK - 1) do days[#days + 1] = string.format('%.0f', day) end
    for i, row in ipairs(redis.call('HMGET', history, unpack(days))) do
      if row then
        if #row ~= ROW_BYTES then return false end
        local used, left = read_row(row)
        rows[#rows + 1] = {from + i - 1, used, left}
      end
    end
  end
  return rows
end

local function record(ledger, history)
  if is_other(ledger, 'string') or is_other(history, 'hash') then return {} end
  local rows = rows_of(history)
  if not rows then return {} end
  local raw = redis.call('GET', ledger)
  if not raw then return {0, 0, rows} end
  local v = read_ledger(raw)
  if not v then return {} end
  if v.day > 0 then rows[#rows + 1] = {v.day, v.day_used, v.day_left} end
  return {v.start, v.used, rows}
end

local records = {}
for i = 1, #KEYS, 2 do records[#records + 1] = record(KEYS[i], KEYS[i + 1]) end
return cmsgpack.pack({now, records})
