--[[
Adds refused calls to the counts of their callers.

KEYS[1]      the worker's highest number applied (text), kept for a day
KEYS[2 ..]   the refused calls of one caller each, a hash: 'DAY:REASON' -> count, and 'oldest' -> the oldest of its days
             (days since 1970)

ARGV[1]      cmsgpack {pinned, number, retention, entries}
  pinned     µs of Unix time, for tests; 0 for the server's clock
  number     of this command, growing by worker; a number that is not above the highest applied is ignored
  retention  days for which counts are kept
  entries    {{key, day, reason, amount}, …}; `key` is a position in KEYS, `reason` one of REASONS

Reply        cmsgpack {status, bad}; status is 'applied' or 'repeated'
  bad        positions in `entries` of those whose hash is not ours; they are not counted
]]
-- prelude: clock

local DAY_US, DAY_MS = 86400000000, 86400000
local NUMBER_MS = DAY_MS
-- The shadow ones are of calls that a plan let through, and would have refused.
local REASONS = {'throttle', 'quota', 'shadow_throttle', 'shadow_quota'}
local CHUNK = 1000  -- fields in one HDEL; unpack() has room for 8000

local pinned, number, retention, entries = unpack(cmsgpack.unpack(ARGV[1]))

local applied = redis.call('GET', KEYS[1])
if applied and tonumber(applied) >= number then return cmsgpack.pack({'repeated', {}}) end

local first_kept = math.floor(clock(pinned) / DAY_US) - retention

-- Deletes the days before `first_kept` after a day has got its first count.
local function prune(key, day)
  local oldest = math.min(tonumber(redis.call('HGET', key, 'oldest') or day), day)
  local fields = {}
  for past = oldest, first_kept - 1 do
    for _, reason in ipairs(REASONS) do fields[#fields + 1] = string.format('%.0f:', past) .. reason end
    if #fields >= CHUNK then
      redis.call('HDEL', key, unpack(fields))
      fields = {}
    end
  end
  if #fields > 0 then redis.call('HDEL', key, unpack(fields)) end
  redis.call('HSET', key, 'oldest', string.format('%.0f', math.max(oldest, first_kept)))
end

-- This is the first write: without memory it fails, with nothing counted.
redis.call('SET', KEYS[1], string.format('%.0f', number), 'PX', NUMBER_MS)

local bad, ours = {}, {}
for position, entry in ipairs(entries) do
  local key, day, reason, amount = KEYS[entry[1]], unpack(entry, 2)
  local count = redis.pcall('HINCRBY', key, string.format('%.0f:', day) .. reason, string.format('%.0f', amount))
  if type(count) ~= 'number' then
    bad[#bad + 1] = position
  else
    ours[key] = true
    if count == amount then prune(key, day) end
  end
end
for key in pairs(ours) do redis.call('PEXPIRE', key, retention * DAY_MS) end

return cmsgpack.pack({'applied', bad})
