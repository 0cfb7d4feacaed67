--[[
Reads the alerts behind the cursor, and which targets have deliveries that are due. The first run of an account sets the
cursor to the end of the stream: nothing is sent of alerts that are older than the feature.

KEYS[1]   the stream of alerts
KEYS[2]   the cursor, a hash: id (of the last alert that was turned into deliveries), position (how many entries the
          stream has had up to it)
KEYS[3]   targets, and
KEYS[4]   pending, and
KEYS[5]   failing   (layouts: prelude/outbox.lua)

ARGV[1]   cmsgpack {pinned, count, targets}
  pinned  µs of Unix time, for tests; 0 for the server's clock
  count   alerts to read at most
  targets targets to name at most

Reply     cmsgpack {now, cursor, position, missed, {{id, {field, value, …}}, …}, {target, …}, pending, oldest, failing}
  position  of the last of these alerts
  missed    how many alerts behind the cursor the stream no longer has
  targets   those with a delivery that is due now, the longest due first
  pending   how many deliveries are pending
  oldest    when the oldest of them was added, in µs; 0 without any
  failing   how many targets are failing
]]
-- prelude: clock
-- prelude: outbox

local pinned, count, targets = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(pinned)

local stream = {['entries-added'] = 0, length = 0, ['last-generated-id'] = '0-0'}
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do stream[info[i]] = info[i + 1] end
end
local added, gone = stream['entries-added'], stream['entries-added'] - stream.length

local cursor = redis.call('HMGET', KEYS[2], 'id', 'position')
if not cursor[1] then
  cursor = {stream['last-generated-id'], text(added)}
  redis.call('HSET', KEYS[2], 'id', cursor[1], 'position', cursor[2])
end

local position = tonumber(cursor[2])
if position > added then position = gone end  -- the stream was made anew
local missed = math.max(0, gone - position)
local entries = count > 0 and added > 0 and redis.call('XRANGE', KEYS[1], '(' .. cursor[1], '+', 'COUNT', count) or {}
position = math.max(position, gone) + #entries

local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', text(now), 'LIMIT', 0, targets)
local oldest = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
return cmsgpack.pack({
  now, cursor[1], position, missed, entries, due,
  redis.call('ZCARD', KEYS[4]), tonumber(oldest[2] or 0), redis.call('HLEN', KEYS[5])})
