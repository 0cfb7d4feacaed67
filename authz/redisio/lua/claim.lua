--[[
Leases deliveries of a target that are due: until the lease ends, no other process gets them.

KEYS[1]   targets, and
KEYS[2]   due, and
KEYS[3]   records, and
KEYS[4]   pending   (layouts: prelude/outbox.lua)

ARGV[1]   cmsgpack {pinned, target, count, lease, all}
  pinned  µs of Unix time, for tests; 0 for the server's clock
  count   deliveries to lease at most
  lease   µs
  all     1 to lease those too that are not due, or that another process has leased

Reply     cmsgpack {now, until, {{id, record}, …}}; until is the end of the lease, in µs
]]
-- prelude: clock
-- prelude: outbox

local pinned, target, count, lease, all = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(pinned)
local last = now + lease

local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', all == 1 and '+inf' or text(now), 'LIMIT', 0, count)) do
  local record = redis.call('HGET', KEYS[3], id)
  if record then
    redis.call('ZADD', KEYS[2], text(last), id)
    found[#found + 1] = {id, record}
  else
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[4], id)
  end
end
note_due(KEYS[1], KEYS[2], target)
return cmsgpack.pack({now, last, found})
