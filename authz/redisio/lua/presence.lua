--[[
Renews a worker's presence, and lists all live workers, with the head of the store at that moment.

KEYS[1]   presences, a hash: worker -> cmsgpack {epoch, version, expires (ms of Unix time), release}
KEYS[2]   the head   (layout: prelude/head.lua)

ARGV[1]   cmsgpack {worker, epoch, version, lasts, pinned, release}
  worker  whose presence is renewed; '' to renew none
  epoch, version   of the store that it serves
  lasts   ms
  pinned  µs of Unix time, for tests; 0 for the server's clock
  release   of the worker's program; older ones announce none

Reply     cmsgpack {epoch, version, tag, {{worker, epoch, version, release}, …}}
]]
-- prelude: clock
-- prelude: head

local worker, epoch, version, lasts, pinned, release = unpack(cmsgpack.unpack(ARGV[1]))
local now = math.floor(clock(pinned) / 1000)

if worker ~= '' then redis.call('HSET', KEYS[1], worker, cmsgpack.pack({epoch, version, now + lasts, release})) end

local alive, rows = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local presence = cmsgpack.unpack(rows[i + 1])
  if presence[3] > now then
    alive[#alive + 1] = {rows[i], presence[1], presence[2], presence[4] or ''}
  else
    redis.call('HDEL', KEYS[1], rows[i])
  end
end

local head = read_head(KEYS[2])
return cmsgpack.pack({head.epoch, head.version, head.tag, alive})
