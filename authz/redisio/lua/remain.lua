--[[
Sets the remaining units of a quota in the current period, or grants units to it. This is also a commit of the store,
with a version, an entry in the stream of changes and a line of the audit. It appends no alert.

KEYS[1]     the head of the store                           (layout: prelude/head.lua)
KEYS[2]     the stream of changes, and
KEYS[3]     the audit stream                                (layouts: prelude/commits.lua)
KEYS[4]     the quota's state: a caller's or a customer's ledger, or a value of its own
                                                            (layouts: prelude/ledger.lua, prelude/quota.lua)
KEYS[5]     the caller's history, if the state is a caller's ledger, else KEYS[4] again
KEYS[6]     for a grant: its name, a hash: 'what' -> what was granted, 'version' -> of the store

ARGV[1]     cmsgpack {pinned, place, rule, remaining, units, what, retention, epoch, tag, who, line}
  pinned    µs of Unix time, for tests; 0 for the server's clock
  place     'ledger', 'shared' (a customer's ledger) or 'value'
  rule      of the quota, over its current period                             (prelude/quota.lua)
  remaining to set, from now until the period ends; above the limit if more is granted; -1 for a grant
  units     to grant
  what      of a grant, so that its name is not used for another one
  retention days for which usage, and the names of grants, are kept
  epoch     for a store that has none; tag, who and line as in commit.lua
ARGV[2]     the body of the entry in the stream of changes

Reply       cmsgpack {status, now, used, requests, units, version}; unless it is 'done' nothing is written
  status    'done', 'repeated' (a grant that was made before), 'other grant' (of this name), 'too much' (numbers would
            no longer be exact), 'stale' (the period does not contain now), 'bad state' (the bytes are not ours)
  used      of the quota; below 0 if more remains than its limit
  requests, units   of the caller's day, unchanged; 0 if the state is not a caller's ledger
  version   of the store afterwards
]]
-- prelude: clock
-- prelude: holds
-- prelude: ledger
-- prelude: quota
-- prelude: head
-- prelude: commits

local pinned, place, rule, remaining, units, what, retention, epoch, tag, who, line = unpack(cmsgpack.unpack(ARGV[1]))

local now = clock(pinned)
local today = math.floor(now / DAY_US)
local limit, start, finish = rule[2], rule[3], rule[4]
local in_ledger = place == 'ledger'

local v
local function reply(status, version)
  local found = v or {}
  return cmsgpack.pack({status, now, found.used or 0, found.day_used or 0, found.day_units or 0, version or 0})
end

if now < start or now >= finish then return reply('stale') end

if is_other(KEYS[4], 'string') or in_ledger and is_other(KEYS[5], 'hash') then return reply('bad state') end

local raw = redis.call('GET', KEYS[4])
local found
if place == 'value' then
  found = read_quota(raw, now)
else
  found = raw and read_ledger(raw, now) or not raw and new_ledger(now)
end
if not found then return reply('bad state') end

local row = in_ledger and redis.call('HGET', KEYS[5], today)
if row and not is_row(row) then return reply('bad state') end
v = found

-- Begin today if the ledger has an older day, as a call does. A day that is one ahead stays: the clock stepped back.
local closed
if in_ledger and (today > v.day or v.day > today + 1) then
  if v.day_used > 0 then closed = {v.day, day_row(v)} end
  begin_day(v, today, row)
end

-- Move the period forward, as a call does. A stored period up to a day ahead stays: the clock stepped back.
adopt(v, rule)
use(v, rule, 0, '', {})

if remaining < 0 then
  if is_other(KEYS[6], 'hash') then return reply('bad state') end
  local before = redis.call('HMGET', KEYS[6], 'what', 'version')
  if before[1] then return reply(before[1] == what and 'repeated' or 'other grant', tonumber(before[2])) end
  if v.used - units < -FOREVER then return reply('too much') end
  v.used = v.used - units
else
  v.used = limit - remaining
end
local left = math.max(0, limit - v.used)

local entry = {epoch = epoch, tag = tag, body = ARGV[2], at = now, who = who, what = line}
local version = log_commit(KEYS[1], KEYS[2], KEYS[3], read_head(KEYS[1]), entry)

if remaining < 0 then
  redis.call('HSET', KEYS[6], 'what', what, 'version', text(version))
  redis.call('PEXPIRE', KEYS[6], retention * DAY_MS)
end

-- Write today's row now: the new remainder is recorded even if no later call closes the day.
if in_ledger then
  v.day_left = left
  if closed then redis.call('HSET', KEYS[5], closed[1], closed[2]) end
  redis.call('HSET', KEYS[5], v.day, day_row(v))
  for _, kept in ipairs(redis.call('HKEYS', KEYS[5])) do
    local number = tonumber(kept)
    if number and number < today - retention then redis.call('HDEL', KEYS[5], kept) end
  end
  redis.call('PEXPIRE', KEYS[5], retention * DAY_MS)
end

if place == 'value' then
  write_quota(KEYS[4], v, now)
else
  redis.call('SET', KEYS[4], pack_ledger(v), 'PX', ledger_ms(v, retention))
end

return reply('done', version)
