--[[
Decides a batch of requests in arrival order: each takes a unit from all of its limits, or from none.

KEYS[1]             the worker's last reply: cmsgpack {sequence, reply}
KEYS[2 .. 2L+1]     L callers, two keys each: the ledger, and its history   (layouts: prelude/ledger.lua)
KEYS[2L+2 .. ]      B buckets: throttles that are not part of a caller's ledger
KEYS[2L+B+2 .. ]    names of requests that are charged once: the result of the one that was admitted, cmsgpack

ARGV[1]             cmsgpack {sequence, deadline, pinned, dry, L, B, retention, rules, requests, onces}
  sequence          of this batch, rising for each worker; a batch that is sent again keeps its number
  deadline          µs of Redis's time after which nothing is charged; 0 for none
  pinned            µs of Unix time to decide at, for tests; 0 for the server's clock
  dry               1: decide, write nothing
  retention         days for which usage is kept
  rules             {{0, n, m, burst}   a bucket that gains n/m tokens a µs
                     {1, limit, start, end}, …}   a quota over [start, end) in µs
  requests          {{caller, value, rule, value, rule, …}, …}, a value and a rule for each limit
                    caller is 1 .. L whose usage counts the call, or 0; value is 1 .. L for a ledger, -1 .. -B for a
                    bucket; rule is its position in rules, below zero for a limit that only reports
  onces             position of each request's name among those keys, 0 for none; empty if no request has one

A bucket is '>Bdddd':   1, debt (1/m tokens), at (µs), n, m; integers below 2^53

Reply               cmsgpack {status, now, results}; status is 'ok', 'old' (a later batch was already decided; nothing
                    is charged) or 'late' (past the deadline; nothing is charged)
  results           {{code, refused, wait, shadowed, state, …}, …}, one a request
  code              0 admitted, 1 refused, 2 stale (a quota's period does not contain now), 3 bad state
  refused           position of the first enforced limit without room, or 0
  wait              µs, the greatest over all enforced limits without room; -1 if infinite
  shadowed          position of the first shadow limit without room, or 0
  state             of each limit as sent, after the decision: debt of a bucket, used of a quota
]]
-- prelude: clock
-- prelude: ledger

local BUCKET, BUCKET_FORMAT, BUCKET_BYTES = 1, '>Bdddd', 33
local ceil, floor, fmod, max, min = math.ceil, math.floor, math.fmod, math.max, math.min
local call = redis.call
local PINNED_MS = 3600000
local REPLY_MS = 5000
local ONCE_MS = 10000  -- longer than Envoy goes on retrying one request

local sequence, deadline, pinned, dry, callers, buckets, retention, rules, requests, onces =
  unpack(cmsgpack.unpack(ARGV[1]))

local now = clock(pinned)
local today = floor(now / DAY_US)

local names = {KEYS[1]}
for i = 1, callers do names[1 + i] = KEYS[2 * i] end
for i = 2 * callers + 2, #KEYS do names[i - callers] = KEYS[i] end
local stored = call('MGET', unpack(names))

-- A sender that received no reply sends the batch again under its old number: repeat the reply, charge nothing.
if dry == 0 and stored[1] then
  local last = cmsgpack.unpack(stored[1])
  if last[1] == sequence then return last[2] end
  if last[1] > sequence then return cmsgpack.pack({'old', now, {}}) end
end
if deadline > 0 and now > deadline then return cmsgpack.pack({'late', now, {}}) end

local function read_bucket(raw)
  if #raw ~= BUCKET_BYTES or raw:byte() ~= BUCKET then return false end
  local v, format = {}, nil
  format, v.debt, v.at, v.n, v.m = struct.unpack(BUCKET_FORMAT, raw)
  return v
end

local values = {}

-- Return the value at position i as a table; false if its bytes are not in our format.
local function value(i)
  local found = values[i]
  if found ~= nil then return found end
  local ledger = i > 0
  local at = ledger and 1 + i or 1 + callers - i
  local raw = stored[at]
  if not raw and call('EXISTS', names[at]) == 1 then
    found = false  -- of another type: MGET shows it as absent
  elseif not raw then
    found = ledger and new_ledger(now) or {debt = 0, at = now, n = 0, m = 0}
  elseif ledger then
    found = read_ledger(raw)
  else
    found = read_bucket(raw)
  end
  values[i] = found
  return found
end

-- Refill a bucket up to now at its stored rate, then convert it to the current rate and burst.
local function reckon(v, n, m, burst)
  if now > v.at then
    v.debt = max(0, v.debt - v.n * (now - v.at))
  elseif now < v.at and v.debt > 0 then
    v.dirty = true  -- a refusal writes it too: else nothing is refilled until the clock catches up
  end
  v.at = now
  if (v.n ~= n or v.m ~= m) and v.debt > 0 then
    local rest = fmod(v.debt, v.m)
    v.debt = (v.debt - rest) / v.m * m
    if rest > 0 then v.debt = v.debt + min(m, ceil(rest / v.m * m) + 2) end
    v.dirty = true  -- a refusal writes it too: from now on the debt is paid off at the new rate
  end
  v.n, v.m = n, m
  if v.debt > burst * m then
    v.debt, v.dirty = burst * m, true  -- a refusal writes it too: its wait is computed for the new burst
  end
end

-- True if the rule has another period. A period only moves forward, unless a wrong clock put it over a day ahead.
local function restarts(v, rule) return rule[3] > v.start or v.start > rule[4] + DAY_US end

-- Units used in the period. Only take() stores a restart: a refusal must not move the period for later calls.
local function used(v, rule) return restarts(v, rule) and 0 or v.used end

local function wait_for(v, rule)
  if rule[1] == 1 then return rule[4] - now end
  if rule[2] == 0 or rule[4] == 0 then return -1 end
  return ceil((v.debt - (rule[4] - 1) * rule[3]) / rule[2])
end

-- True if one more unit of a limit fits. Refills a bucket first.
local function has_room(v, rule)
  if rule[1] == 1 then
    return used(v, rule) < rule[2]
  end
  reckon(v, rule[2], rule[3], rule[4])
  if rule[2] == 0 then v.met = true end
  return v.debt <= (rule[4] - 1) * rule[3]
end

local function take(v, rule)
  if rule[1] == 0 then
    v.debt = v.debt + rule[3]
  else
    v.used = used(v, rule) + 1
    if restarts(v, rule) then v.start = rule[3] end
  end
  v.dirty = true
end

-- Close the ledger's day and begin today. The closed row is written at the end. Today's row exists already if the clock
-- was wrong before.
local function turn_day(v, history, today)
  if v.day_used > 0 then v.closed = {v.day, pack_row(v.day_used, v.day_left)} end
  v.day, v.day_used, v.day_left, v.turned = today, 0, -1, history
  local row = call('HGET', history, today)
  if row then v.day_used, v.day_left = read_row(row) end
end

local function is_new_day(v) return today > v.day or v.day > today + 1 end

-- True if the history or its row of today is not in our format. Reads it once a day for each caller.
local function has_bad_history(caller)
  if not is_new_day(value(caller)) then return false end
  local history = KEYS[2 * caller + 1]
  if is_other(history, 'hash') then return true end
  local row = call('HGET', history, today)
  return row and #row ~= ROW_BYTES
end

-- Of each limit of a request, by position: value, rule, and whether it only reports. Filled anew for each request.
local found, said, reports = {}, {}, {}

-- Check a request before it changes anything: 3 for a bad value, 2 if a quota's period does not contain now, else nil.
local function unfit(caller, request, count)
  if caller > 0 and (not value(caller) or has_bad_history(caller)) then return 3 end
  local stale
  for k = 1, count do
    local v, at = value(request[2 * k]), request[2 * k + 1]
    if not v then return 3 end
    local rule = rules[at < 0 and -at or at]
    if rule[1] == 1 and (now < rule[3] or now >= rule[4]) then stale = 2 end
    found[k], said[k], reports[k] = v, rule, at < 0
  end
  return stale
end

local function meter(caller, count)
  local v = value(caller)
  if is_new_day(v) then turn_day(v, KEYS[2 * caller + 1], today) end
  v.day_used, v.day_left, v.dirty = v.day_used + 1, -1, true
  for k = 1, count do
    if said[k][1] == 1 then v.day_left = max(0, said[k][2] - used(v, said[k])) end
  end
end

local function decide(request)
  local caller, count = request[1], (#request - 1) / 2
  local code = unfit(caller, request, count)
  if code then return {code, 0, 0, 0} end
  local refused, wait, shadowed = 0, 0, 0
  for k = 1, count do
    local v, rule = found[k], said[k]
    if not has_room(v, rule) then
      if reports[k] then
        if shadowed == 0 then shadowed = k end
      else
        if refused == 0 then refused = k end
        local own = wait_for(v, rule)
        wait = (wait < 0 or own < 0) and -1 or max(wait, own)
      end
    end
  end
  if refused == 0 then
    for k = 1, count do
      if shadowed == 0 or not reports[k] then take(found[k], said[k]) end
    end
    if caller > 0 then meter(caller, count) end
  end
  local result = {refused > 0 and 1 or 0, refused, wait, shadowed}
  for k = 1, count do
    local v, rule = found[k], said[k]
    result[4 + k] = rule[1] == 1 and used(v, rule) or v.debt
  end
  return result
end

-- The result of an earlier admission under a request's name, in this batch or by any worker; nil if there is none.
local charged, named = {}, {}
local function charged_before(once, request)
  local raw = stored[1 + callers + buckets + once]
  if not raw then return charged[once] end
  local is_read, result = pcall(cmsgpack.unpack, raw)
  local is_ours = is_read and type(result) == 'table' and result[1] == 0 and #result == 4 + (#request - 1) / 2
  return is_ours and result or {3, 0, 0, 0}
end

local function decide_once(request, once)
  local result = charged_before(once, request)
  if result then return result end
  result = decide(request)
  if result[1] == 0 then charged[once], named[once] = result, names[1 + callers + buckets + once] end
  return result
end

local results = {}
for i, request in ipairs(requests) do
  local once = onces[i] or 0
  results[i] = once > 0 and decide_once(request, once) or decide(request)
end
local reply = cmsgpack.pack({'ok', now, results})
if dry == 1 then return reply end

-- Life in ms. A bucket expires when it is full; a bucket that never fills, 400 days after the last call that read it.
local function expiry(v, ledger)
  local ms = ledger and ledger_ms(v, retention) or bucket_ms(v)
  return pinned > 0 and max(ms, PINNED_MS) or ms
end

-- Write the closed day's row. Delete rows past the retention, and today's row, which the ledger now holds.
local function write_history(v)
  if v.closed then call('HSET', v.turned, v.closed[1], v.closed[2]) end
  for _, day in ipairs(call('HKEYS', v.turned)) do
    local number = tonumber(day)
    if number and (number == today or number < today - retention) then call('HDEL', v.turned, day) end
  end
  call('PEXPIRE', v.turned, retention * DAY_MS)
end

for i, v in pairs(values) do
  local ledger = i > 0
  local name = names[ledger and 1 + i or 1 + callers - i]
  if v and v.turned then write_history(v) end
  if v and v.dirty then
    local raw = ledger and pack_ledger(v) or struct.pack(BUCKET_FORMAT, BUCKET, v.debt, v.at, v.n, v.m)
    call('SET', name, raw, 'PX', expiry(v, ledger))
  elseif v and v.met then
    call('PEXPIRE', name, expiry(v, ledger))
  end
end
for once, name in pairs(named) do call('SET', name, cmsgpack.pack(charged[once]), 'PX', ONCE_MS) end
local keep = deadline > 0 and ceil((deadline - now) / 1000) or 0
call('SET', KEYS[1], cmsgpack.pack({sequence, reply}), 'PX', max(keep, REPLY_MS))
return reply
