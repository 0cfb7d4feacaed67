--[[
Sets the remaining units of a caller's quota in the current period. This is also a commit of the store, with a version,
an entry in the stream of changes and a line of the audit.

KEYS[1]     the caller's ledger, and
KEYS[2]     its history                                     (layouts: prelude/ledger.lua)
KEYS[3]     the head of the store                           (layout: prelude/head.lua)
KEYS[4]     the stream of changes, and
KEYS[5]     the audit stream                                (layouts: prelude/commits.lua)

ARGV[1]     cmsgpack {pinned, remaining, limit, start, end, retention, epoch, tag, who, what}
  pinned    µs of Unix time, for tests; 0 for the server's clock
  remaining from now until the period ends; above the limit if more is granted
  limit     of the quota over [start, end) in µs
  retention days for which usage is kept
  epoch     for a store that has none; tag, who and what as in commit.lua
ARGV[2]     the body of the entry in the stream of changes

Reply       cmsgpack {status, now, used, version}; status is 'done', 'stale' (the period does not contain now) or
            'bad state' (the bytes are not ours); unless it is 'done' nothing is written
  used      calls of today, unchanged
  version   of the store afterwards
]]
-- prelude: clock
-- prelude: ledger
-- prelude: head
-- prelude: commits

local pinned, remaining, limit, start, finish, retention, epoch, tag, who, what = unpack(cmsgpack.unpack(ARGV[1]))

local now = clock(pinned)
local today = math.floor(now / DAY_US)

local function reply(status, used, version) return cmsgpack.pack({status, now, used or 0, version or 0}) end

if now < start or now >= finish then return reply('stale') end

if is_other(KEYS[1], 'string') or is_other(KEYS[2], 'hash') then return reply('bad state') end

local raw = redis.call('GET', KEYS[1])
local v = raw and read_ledger(raw) or not raw and new_ledger(now)
if not v then return reply('bad state') end

local row = redis.call('HGET', KEYS[2], today)
if row and not is_row(row) then return reply('bad state') end

-- Begin today if the ledger has an older day, as a call does. A day that is one ahead stays: the clock stepped back.
local closed
if today > v.day or v.day > today + 1 then
  if v.day_used > 0 then closed = {v.day, day_row(v)} end
  begin_day(v, today, row)
end

-- Move the period forward, as a call does. A stored period up to a day ahead stays: the clock stepped back.
if start > v.start or v.start > finish + DAY_US then v.start = start end
v.used, v.day_left = limit - remaining, remaining

local entry = {epoch = epoch, tag = tag, body = ARGV[2], at = now, who = who, what = what}
local version = log_commit(KEYS[3], KEYS[4], KEYS[5], read_head(KEYS[3]), entry)

-- Write today's row now: the new remainder is recorded even if no later call closes the day.
if closed then redis.call('HSET', KEYS[2], closed[1], closed[2]) end
redis.call('HSET', KEYS[2], v.day, day_row(v))
for _, kept in ipairs(redis.call('HKEYS', KEYS[2])) do
  local number = tonumber(kept)
  if number and number < today - retention then redis.call('HDEL', KEYS[2], kept) end
end
redis.call('PEXPIRE', KEYS[2], retention * DAY_MS)
redis.call('SET', KEYS[1], pack_ledger(v), 'PX', ledger_ms(v, retention))

return reply('done', v.day_used, version)
