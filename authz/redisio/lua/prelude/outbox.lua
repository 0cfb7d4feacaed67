-- The deliveries of alerts. A delivery is pending, failed or delivered. For all targets there are
--   targets    a sorted set: target by the time at which its next delivery is due
--   pending, failed, delivered
--              sorted sets: delivery by the time at which it became so
--   failing    a hash: target -> the time of the first failed attempt since the last one that worked
-- and for each target
--   due        a sorted set: pending delivery by the time at which it is due. While a process sends it, that is the end
--              of the process's lease
--   failed, delivered
--              sorted sets, as above
--   records    a hash: delivery -> its record, which scripts do not read
-- All times are µs of Unix time.
local function text(number) return string.format('%.0f', number) end

-- The earliest time at which a delivery of the target is due.
local function note_due(targets, due, target)
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if first[1] then redis.call('ZADD', targets, first[2], target) else redis.call('ZREM', targets, target) end
end

-- Keep the newest `most` deliveries of a target in a list, and their records.
local function keep_newest(all, own, records, most)
  local old = redis.call('ZRANGE', own, 0, -1 - most)
  for _, id in ipairs(old) do
    redis.call('ZREM', own, id)
    redis.call('ZREM', all, id)
    redis.call('HDEL', records, id)
  end
end
