-- A quota's rule is {1, limit, start, end}, or for the plans that need more:
--   {1, limit, start, end, requests, ceiling, moves, period, counts, percent, …}
--   start, end   of the period that contains now, in µs; the end is FOREVER for a period that has none
--   requests     1 if a call takes one, whatever its cost
--   ceiling      the units that are admitted, overage included; the limit without overage
--   moves        1 if a time zone or a billing day decides when periods begin
--   period, counts  as the plan has them, for alerts
--   percent      of the limit, ascending: the call that reaches one appends an entry to the stream of alerts
-- Its state is a slot of a ledger, or a value of its own, '>Bddd': 4, start, finish (µs), used. Holds may follow
-- (prelude/holds.lua).
-- A script makes these functions anew in each run, and pays for each local of its own that they name: so they name few,
-- and spell numbers out.
local FOREVER = 9007199254740992  -- 2^53

-- The state in these bytes, or a new one without any; false where they are not ours.
local function read_quota(raw, now, returning)
  if not raw then return {start = 0, finish = 0, used = 0, is_quota = true} end
  if #raw < 25 or raw:byte() ~= 4 then return false end
  local start, finish, used = struct.unpack('>ddd', raw, 2)
  local v = {start = start, finish = finish, used = used, is_quota = true}
  return #raw == 25 and v or read_holds(v, raw, 25, now, returning)
end

-- Write a quota's own value. It lives until its period is over and no clock steps back into it; for ever if the period
-- has no end.
local function write_quota(name, v, now)
  local raw = struct.pack('>Bddd', 4, v.start, v.finish, v.used)
  if v.holds then raw = with_holds(raw, v) end
  if v.finish >= 9007199254740992 then
    redis.call('SET', name, raw)
  else
    redis.call('SET', name, raw, 'PX', math.max(0, math.ceil((v.finish - now) / 1000)) + 86400000)
  end
end

-- True if the rule's period is another one, which begins with nothing used. A period only moves forward, unless a wrong
-- clock put it over a day ahead. Where a time zone or a billing day has changed, the stored period ends at its own time
-- or at the end of the rule's, whichever was seen last: `adopt` keeps that. An end that is not stored is at least nine
-- tenths of a period after the start. A much shorter period, as a day after a month, does not wait for the stored end.
local function restarts(v, rule)
  local start, finish = rule[3], rule[4]
  if start <= v.start then return v.start > finish + 86400000000 end
  if v.finish > 0 then return start >= v.finish or (finish - start) * 2 < v.finish - v.start end
  return rule[7] ~= 1 or start >= v.start + (finish - start) * 0.9
end

-- Units used in the period. Only use() stores a restart: a refusal must not move the period for later calls.
local function used(v, rule) return restarts(v, rule) and 0 or v.used end

-- Note when the period ends, if the rule's periods have changed since it began. The used units stay. A refusal writes
-- it too: else the next period would be one of the old ones. A value of its own always keeps the end of its period.
local function adopt(v, rule)
  if rule[7] ~= 1 and v.finish == 0 or restarts(v, rule) or rule[4] <= v.start then return end
  if rule[3] > v.start then v.start, v.dirty = rule[3], true end
  if v.finish ~= rule[4] then v.finish, v.dirty = rule[4], true end
end

-- Add to the used units; a later period begins with none. Adds {of, rule, percent, used} to events for each percent of
-- the limit that is reached. Returns the units beyond the limit of a quota with overage.
local function use(v, rule, amount, of, events)
  if restarts(v, rule) then
    v.start, v.used, v.finish = rule[3], 0, rule[7] == 1 and rule[4] or 0
    if v.unseen then v.unseen = 0 end
  end
  if v.is_quota and v.finish == 0 then v.finish = rule[4] end
  local before = v.used
  v.used = before + amount
  if v.unseen then before, v.unseen = before - v.unseen, 0 end
  v.dirty = true
  if not rule[5] then return 0 end
  for k = 10, #rule do
    local at = math.ceil(rule[k] * rule[2] / 100)
    if before < at and at <= v.used then events[#events + 1] = {of, rule, rule[k], v.used} end
  end
  if rule[6] == rule[2] then return 0 end
  return math.max(0, math.min(amount, v.used - rule[2]))
end

-- Append the events to the stream of alerts, which keeps 100,000, or a few more.
local function log_alerts(stream, events, now)
  local function text(number) return string.format('%.0f', number) end
  for _, event in ipairs(events) do
    local name, rule, percent, units = unpack(event)
    redis.call(
      'XADD', stream, 'MAXLEN', '~', 100000, '*', 'value', name, 'period', rule[8], 'counts', rule[9],
      'percent', text(percent), 'used', text(units), 'limit', text(rule[2]), 'start', text(rule[3]),
      'end', text(rule[4]), 'at', text(now))
  end
end
