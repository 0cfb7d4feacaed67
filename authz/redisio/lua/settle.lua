--[[
Moves deliveries of a target from one state to another, each only if it is still as it was read.

KEYS[1]   targets, pending, failed, delivered, failing: KEYS[1] to KEYS[5], and of the target
KEYS[6]   due, failed, delivered, records: KEYS[6] to KEYS[9]   (layouts: prelude/outbox.lua)

ARGV[1]   cmsgpack {pinned, target, failed, delivered, health, moves}
  pinned  µs of Unix time, for tests; 0 for the server's clock
  failed, delivered   how many deliveries of the target are kept in these states
  health  'works' or 'fails' after an attempt, '' otherwise
  moves   {{id, from, score, to, pause, record}, …}
    from, score   'pending' and the end of the lease, or 'failed' and the time of failing
    to            'pending', 'failed' or 'delivered'
    pause         µs until a pending one is due

Reply     cmsgpack {moved, …}: for each move 1, or 0 if the delivery is no longer as it was read
]]
-- prelude: clock
-- prelude: outbox

local pinned, target, most_failed, most_delivered, health, moves = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(pinned)
local all = {pending = KEYS[2], failed = KEYS[3], delivered = KEYS[4]}
local own = {pending = KEYS[6], failed = KEYS[7], delivered = KEYS[8]}
local records = KEYS[9]

local moved = {}
for order, move in ipairs(moves) do
  local id, from, score, to, pause, record = unpack(move)
  local held = tonumber(redis.call('ZSCORE', own[from], id) or -1) == score
  moved[order] = held and 1 or 0
  if held then
    local at = text(now + order)  -- no two have the same time, so that a page can end between them
    redis.call('HSET', records, id, record)
    if from ~= to then
      redis.call('ZREM', own[from], id)
      redis.call('ZREM', all[from], id)
      redis.call('ZADD', all[to], at, id)
    end
    redis.call('ZADD', own[to], to == 'pending' and text(now + pause) or at, id)
  end
end
keep_newest(all.failed, own.failed, records, most_failed)
keep_newest(all.delivered, own.delivered, records, most_delivered)
note_due(KEYS[1], KEYS[6], target)
if health == 'works' then redis.call('HDEL', KEYS[5], target) end
if health == 'fails' then redis.call('HSETNX', KEYS[5], target, text(now)) end
return cmsgpack.pack(moved)
