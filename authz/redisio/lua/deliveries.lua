--[[
Adds deliveries of alerts and moves the cursor behind these alerts, both or neither.

KEYS[1]       the cursor   (layout: alerts.lua)
KEYS[2]       targets, and
KEYS[3]       pending, and
KEYS[4]       failed       (layouts: prelude/outbox.lua)
KEYS[5 ..]    due, failed and records of each target, in this order

ARGV[1]       cmsgpack {pinned, before, cursor, position, most, deliveries}
  pinned      µs of Unix time, for tests; 0 for the server's clock
  before      the cursor as it was read; if another process has moved it, nothing is written
  cursor, position   to write
  most        failed deliveries that are kept of a target
  deliveries  {{number, target, id, record, state}, …}; the keys of the target begin at KEYS[2 + 3 * number],
              state is 'pending' or 'failed'. A delivery whose record is there already is left alone

Reply         cmsgpack {status}: 'done', or 'moved' if another process has moved the cursor
]]
-- prelude: clock
-- prelude: outbox

local pinned, before, cursor, position, most, deliveries = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(pinned)

if redis.call('HGET', KEYS[1], 'id') ~= before then return cmsgpack.pack({'moved'}) end
redis.call('HSET', KEYS[1], 'id', cursor, 'position', text(position))

for order, delivery in ipairs(deliveries) do
  local number, target, id, record, state = unpack(delivery)
  local due, failed, records = KEYS[2 + 3 * number], KEYS[3 + 3 * number], KEYS[4 + 3 * number]
  if redis.call('HSETNX', records, id, record) == 1 then
    local at = text(now + order)  -- no two have the same time, so that a page can end between them
    if state == 'pending' then
      redis.call('ZADD', due, at, id)
      redis.call('ZADD', KEYS[3], at, id)
      note_due(KEYS[2], due, target)
    else
      redis.call('ZADD', failed, at, id)
      redis.call('ZADD', KEYS[4], at, id)
      keep_newest(KEYS[4], failed, records, most)
    end
  end
end
return cmsgpack.pack({'done'})
