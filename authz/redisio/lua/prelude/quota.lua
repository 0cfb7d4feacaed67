-- A quota's rule is {1, limit, start, end}, or for the plans that need more:
--   {1, limit, start, end, requests, ceiling, moves, period, counts, percent, …}
--   start, end   of the period that contains now, in µs; the end is FOREVER for a period that has none
--   requests     1 if a call takes one, whatever its cost
--   ceiling      the units that are admitted, overage included; the limit without overage
--   moves        1 if a time zone or a billing day decides when periods begin
--   period, counts  as the plan has them, for alerts
--   percent      of the limit, ascending: the call that reaches one appends an entry to the stream of alerts
-- Its state is a slot of a ledger, or a value of its own, '>Bddd': 4, start, finish (µs), used.
local QUOTA, QUOTA_FORMAT, QUOTA_BYTES = 4, '>Bddd', 25
local FOREVER = 9007199254740992  -- 2^53
local ALERTS = 100000  -- entries that are kept, or a few more
local MOST_OF = 0.9  -- of a period: an unknown end is at least so far from its start

local function new_quota() return {start = 0, finish = 0, used = 0, is_quota = true} end

local function read_quota(raw)
  if #raw ~= QUOTA_BYTES or raw:byte() ~= QUOTA then return false end
  local v, format = {is_quota = true}, nil
  format, v.start, v.finish, v.used = struct.unpack(QUOTA_FORMAT, raw)
  return v
end

local function pack_quota(v) return struct.pack(QUOTA_FORMAT, QUOTA, v.start, v.finish, v.used) end

-- The life of a quota's own value: until its period is over and no clock steps back into it. Nil for a value that stays.
local function quota_ms(v, now)
  if v.finish >= FOREVER then return nil end
  return math.max(0, math.ceil((v.finish - now) / 1000)) + DAY_MS
end

-- True if the rule's period is another one, which begins with nothing used. A period only moves forward, unless a wrong
-- clock put it over a day ahead. Where a time zone or a billing day has changed, the stored period ends at its own time
-- or at the end of the rule's, whichever was seen last: `adopt` keeps that.
local function restarts(v, rule)
  local start, finish = rule[3], rule[4]
  if v.start > finish + DAY_US then return true end
  if start <= v.start then return false end
  if v.finish > 0 then return start >= v.finish end
  return rule[7] ~= 1 or start >= v.start + (finish - start) * MOST_OF
end

-- Units used in the period. Only take() stores a restart: a refusal must not move the period for later calls.
local function used(v, rule) return restarts(v, rule) and 0 or v.used end

-- Note when the period ends, if the rule's periods have changed since it began. The used units stay. A refusal writes
-- it too: else the next period would be one of the old ones. A value of its own always keeps the end of its period.
local function adopt(v, rule)
  if rule[7] ~= 1 and v.finish == 0 or restarts(v, rule) or rule[4] <= v.start then return end
  if rule[3] > v.start then v.start, v.dirty = rule[3], true end
  if v.finish ~= rule[4] then v.finish, v.dirty = rule[4], true end
end

local function ceiling(rule) return rule[6] or rule[2] end

-- Add to the used units; a later period begins with none. Adds {name, rule, percent, used} to events for each percent
-- of the limit that is reached. Returns the units beyond the limit of a quota with overage.
local function use(v, rule, amount, name, events)
  if restarts(v, rule) then
    v.start, v.used, v.finish = rule[3], 0, rule[7] == 1 and rule[4] or 0
  end
  if v.is_quota and v.finish == 0 then v.finish = rule[4] end
  local before = v.used
  v.used = before + amount
  v.dirty = true
  for k = 10, #rule do
    local at = math.ceil(rule[k] * rule[2] / 100)
    if before < at and at <= v.used then events[#events + 1] = {name, rule, rule[k], v.used} end
  end
  if ceiling(rule) == rule[2] then return 0 end
  return math.max(0, math.min(amount, v.used - rule[2]))
end

local function log_alerts(stream, events, now)
  local function text(number) return string.format('%.0f', number) end
  for _, event in ipairs(events) do
    local name, rule, percent, units = unpack(event)
    redis.call(
      'XADD', stream, 'MAXLEN', '~', ALERTS, '*', 'value', name, 'period', rule[8], 'counts', rule[9],
      'percent', text(percent), 'used', text(units), 'limit', text(rule[2]), 'start', text(rule[3]),
      'end', text(rule[4]), 'at', text(now))
  end
end
