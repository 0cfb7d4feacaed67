--[[
Removes all deliveries of a target.

KEYS      as those of settle.lua
ARGV[1]   the target
]]
local CHUNK = 1000  -- members in one ZREM; unpack() has room for 8000

local function remove(all, ids)
  for start = 1, #ids, CHUNK do
    redis.call('ZREM', all, unpack(ids, start, math.min(start + CHUNK - 1, #ids)))
  end
end

for i = 2, 4 do remove(KEYS[i], redis.call('ZRANGE', KEYS[i + 4], 0, -1)) end
redis.call('DEL', KEYS[6], KEYS[7], KEYS[8], KEYS[9])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
return 1
