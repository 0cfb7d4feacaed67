--[[
Sets what remains of a caller's quota in the period that holds now. It is a commit of the store too: it has a version,
an entry in the stream of changes and a line of the audit, all as commit.lua writes them.

KEYS[1]     the caller's ledger, and
KEYS[2]     its history                                     (layouts: admit.lua)
KEYS[3]     the head of the store
KEYS[4]     the stream of changes
KEYS[5]     the audit stream                                (layouts: commit.lua)

ARGV[1]     cmsgpack {pinned, remaining, limit, start, end, retention, epoch, tag, who, what}
  pinned    µs of Unix time, for tests; 0 for the server's clock
  remaining from now until the period ends; above the limit if more is granted
  limit     of the quota over [start, end) in µs
  retention days for which usage is kept
  epoch     for a store that has none; tag, who and what as in commit.lua
ARGV[2]     what the entry of the stream tells, as its readers know it

Reply       cmsgpack {status, now, used, version}; status is 'done', 'stale' (the period does not contain now) or
            'bad state' (the bytes are not ours); unless it is 'done' nothing is written
  used      calls of today, which stay as they are
  version   of the store afterwards
]]

local LEDGER = 2
local DAY = 86400000000
local KEEP_FOREVER_MS = 400 * 86400000  -- a bucket that never fills
local LONGEST_PERIOD = 31  -- days: a ledger outlives every quota in it

local CHANGES, LINES = 10000, 100000  -- entries of the streams that are kept, or a few more

local pinned, remaining, limit, start, finish, retention, epoch, tag, who, what = unpack(cmsgpack.unpack(ARGV[1]))

local now = pinned
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local today = math.floor(now / DAY)

local function reply(status, used, version) return cmsgpack.pack({status, now, used or 0, version or 0}) end

if now < start or now >= finish then return reply('stale') end

local function is_other(key, expected)
  local type = redis.call('TYPE', key).ok
  return type ~= expected and type ~= 'none'
end

if is_other(KEYS[1], 'string') or is_other(KEYS[2], 'hash') then return reply('bad state') end

local debt, at, n, m, day, day_used, day_left = 0, now, 0, 0, 0, 0, -1
local raw, format, stored, used = redis.call('GET', KEYS[1])
if raw then
  if #raw ~= 73 or raw:byte() ~= LEDGER then return reply('bad state') end
  format, debt, at, n, m, stored, used, day, day_used, day_left = struct.unpack('>Bddddddddd', raw)
end

local row = redis.call('HGET', KEYS[2], today)
if row and #row ~= 16 then return reply('bad state') end

-- Roll an older ledger forward, as a call would. A day that only lies ahead by a clock's step stays.
local closed
if today > day or day > today + 1 then
  if day_used > 0 then closed = {day, struct.pack('>dd', day_used, day_left)} end
  day, day_used = today, 0
  if row then day_used = struct.unpack('>dd', row) end
end

-- A later start that a step of the clock explains stays, as a call would leave it.
if not stored or start > stored or stored > finish + DAY then stored = start end
used, day_left = limit - remaining, remaining

local head = redis.call('HMGET', KEYS[3], 'epoch', 'version', 'tag')
local version = string.format('%.0f', tonumber(head[2] or 0) + 1)
local id, at_text = version .. '-0', string.format('%.0f', now)

-- First of all writes, as in commit.lua: what can fail fails here, with nothing written.
redis.call('XADD', KEYS[4], 'MAXLEN', '~', CHANGES, id, 'previous', head[3] or '', 'tag', tag, 'body', ARGV[2])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', LINES, id, 'at', at_text, 'who', who, 'what', what)
redis.call('HSET', KEYS[3], 'epoch', head[1] or epoch, 'version', version, 'tag', tag)

-- The day's own row tells what was set even if no call of today ever closes it.
if closed then redis.call('HSET', KEYS[2], closed[1], closed[2]) end
redis.call('HSET', KEYS[2], day, struct.pack('>dd', day_used, day_left))
for _, kept in ipairs(redis.call('HKEYS', KEYS[2])) do
  local number = tonumber(kept)
  if number and number < today - retention then redis.call('HDEL', KEYS[2], kept) end
end
redis.call('PEXPIRE', KEYS[2], retention * 86400000)

local ms = math.max(retention, LONGEST_PERIOD) * 86400000
if debt > 0 then ms = math.max(ms, n > 0 and math.ceil(debt / n / 1000) + 1 or KEEP_FOREVER_MS) end
raw = struct.pack('>Bddddddddd', LEDGER, debt, at, n, m, stored, used, day, day_used, day_left)
redis.call('SET', KEYS[1], raw, 'PX', ms)

return reply('done', day_used, tonumber(version))
