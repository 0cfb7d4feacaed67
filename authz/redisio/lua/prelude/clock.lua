-- µs of Unix time: Redis's own, unless a test pins another.
local function clock(pinned)
  if pinned > 0 then return pinned end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
