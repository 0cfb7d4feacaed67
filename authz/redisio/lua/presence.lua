--[[
Renews a worker's lease, and tells all that are alive, with the head of the store at that moment.

KEYS[1]   leases, a hash: worker -> cmsgpack {epoch, version, expires (ms of Unix time)}
KEYS[2]   the head, a hash: epoch, version, tag

ARGV[1]   cmsgpack {worker, epoch, version, lasts, pinned}
  worker  whose lease is renewed; '' to renew none
  epoch, version   of the store that it serves
  lasts   ms
  pinned  ms of Unix time, for tests; 0 for the server's clock

Reply     cmsgpack {epoch, version, tag, {{worker, epoch, version}, …}}
]]

local worker, epoch, version, lasts, now = unpack(cmsgpack.unpack(ARGV[1]))
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

if worker ~= '' then redis.call('HSET', KEYS[1], worker, cmsgpack.pack({epoch, version, now + lasts})) end

local alive, rows = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local lease = cmsgpack.unpack(rows[i + 1])
  if lease[3] > now then
    alive[#alive + 1] = {rows[i], lease[1], lease[2]}
  else
    redis.call('HDEL', KEYS[1], rows[i])
  end
end

local head = redis.call('HMGET', KEYS[2], 'epoch', 'version', 'tag')
return cmsgpack.pack({head[1] or '', tonumber(head[2] or 0), head[3] or '', alive})
