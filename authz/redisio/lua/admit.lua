--[[
Decides a batch of requests in arrival order: each takes its amounts from all of its limits, or from none. Before, the
process gives back what it holds of limits, and with a request it may hold more.

KEYS[1]             the worker's last reply: cmsgpack {sequence, reply}
KEYS[2 .. 2L+1]     L ledgers, two keys each: the ledger of a caller, and its history   (layouts: prelude/ledger.lua);
                    or the ledger of a customer, twice: it has no history
KEYS[2L+2 .. ]      B values of their own: throttles and quotas that are in no ledger
     ..             names of requests that are charged once: the result of the one that was admitted, cmsgpack
     ..             the stream of alerts, if a rule of the batch has any

ARGV[1]             cmsgpack of sequence, deadline, pinned, dry, L, B, retention, rules, requests, onces, costs, alerts,
                    ahead, one after the other
  sequence          of this batch, rising for each worker; a batch that is sent again keeps its number
  deadline          µs of Redis's time after which nothing is charged; 0 for none
  pinned            µs of Unix time to decide at, for tests; 0 for the server's clock
  dry               1: decide, write nothing
  retention         days for which usage is kept
  rules             {{0, n, m, burst, units}   a bucket that gains n/m tokens a µs; units is 1 if a call takes its cost
                     {1, limit, start, end, …}, …}   a quota over [start, end) in µs   (prelude/quota.lua)
  requests          {{caller, value, rule, value, rule, …}, …}, a value and a rule for each limit
                    caller is 1 .. L whose usage counts the call, or 0; value is 1 .. L for a ledger, -1 .. -B for a
                    value of its own; rule is its position in rules, below zero for a limit that only reports
  onces             position of each request's name among those keys, 0 for none; empty if no request has one
  costs             units of each request; empty if each costs one
  alerts            1 if the last key is the stream of alerts
  ahead             empty, or {process, hold, wants, returns} if units are held or given back
    process         a number of the process that holds them, below 2^32
    hold            µs, the longest life of a hold
    wants           further calls like each request that the process would hold; empty if none
    returns         {{request, ends, released, used, cost}, …}: of a hold of `released` calls like `request` that lasts
                    until `ends`, `used` were admitted

A bucket is '>Bdddd':   1, debt (1/m tokens), at (µs), n, m; integers below 2^53. Holds may follow (prelude/holds.lua)

Reply               cmsgpack {status, now, results}, with `ahead` {status, now, results, holds, ended}; status is 'ok',
                    'old' (a later batch was already decided; nothing is charged) or 'late' (past the deadline; nothing
                    is charged)
  results           {{code, refused, wait, shadowed, state, …}, …}, one a request
  code              0 admitted, 1 refused, 2 stale (a quota's period does not contain now), 3 bad state, 4 undecided: all
                    limits without room have held units, and the first hold ends after the wait
  refused           position of the first enforced limit without room, or 0
  wait              µs, the greatest over all enforced limits without room; -1 if infinite
  shadowed          position of the first shadow limit without room, or 0
  state             of each limit as sent, after the decision: debt of a bucket, used of a quota. Of an admitted call,
                    held units count as used
  holds             {{request, calls, ends}, …}: what the process holds from now on; of a dry run, {{limit, units,
                    processes}, …}: what is held of the only request's limits, and by how many processes
  ended             number of returns that came after the end of their hold: it was charged whole
]]
-- prelude: clock
-- prelude: holds
-- prelude: ledger
-- prelude: quota

local BUCKET, BUCKET_FORMAT, BUCKET_BYTES = 1, '>Bdddd', 33
local ceil, floor, fmod, max, min = math.ceil, math.floor, math.fmod, math.max, math.min
local call = redis.call
local PINNED_MS = 3600000
local REPLY_MS = 5000
local ONCE_MS = 10000  -- longer than Envoy goes on retrying one request

local sequence, deadline, pinned, dry, ledgers, owned, retention, rules, requests, onces, costs, alerts, ahead =
  cmsgpack.unpack(ARGV[1])
local process, hold, wants, returns = unpack(ahead)

local now = clock(pinned)
local today = floor(now / DAY_US)

local names = {KEYS[1]}
for i = 1, ledgers do names[1 + i] = KEYS[2 * i] end
for i = 2 * ledgers + 2, #KEYS - alerts do names[i - ledgers] = KEYS[i] end
local stored = call('MGET', unpack(names))

-- A sender that received no reply sends the batch again under its old number: repeat the reply, charge nothing.
if dry == 0 and stored[1] then
  local last = cmsgpack.unpack(stored[1])
  if last[1] == sequence then return last[2] end
  if last[1] > sequence then return cmsgpack.pack({'old', now, {}}) end
end
if deadline > 0 and now > deadline then return cmsgpack.pack({'late', now, {}}) end

local returning  -- the ends of holds that are given back late, and the process: they are not ended when they are read

local function read_bucket(raw)
  if #raw < BUCKET_BYTES or raw:byte() ~= BUCKET then return false end
  local _, debt, at, n, m = struct.unpack(BUCKET_FORMAT, raw)
  local v = {debt = debt, at = at, n = n, m = m}
  return #raw == BUCKET_BYTES and v or read_holds(v, raw, BUCKET_BYTES, now, returning)
end

local values = {}

-- Return the value at position i as a table; false if its bytes are not in our format. `kind` is that of its rule.
local function value(i, kind)
  local found = values[i]
  if found ~= nil then return found end
  local ledger = i > 0
  local at = ledger and 1 + i or 1 + ledgers - i
  local raw = stored[at]
  if not raw and call('EXISTS', names[at]) == 1 then
    found = false  -- of another type: MGET shows it as absent
  elseif not raw then
    found = ledger and new_ledger(now) or kind == 1 and read_quota() or {debt = 0, at = now, n = 0, m = 0}
  elseif ledger then
    found = read_ledger(raw, now, returning)
  else
    found = kind == 1 and read_quota(raw, now, returning) or kind == 0 and read_bucket(raw)
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

local function wait_for(v, rule, amount)
  if rule[1] == 1 then return (rule[4] >= FOREVER or amount > (rule[6] or rule[2])) and -1 or rule[4] - now end
  if rule[2] == 0 or rule[4] < amount then return -1 end
  return ceil((v.debt - (rule[4] - amount) * rule[3]) / rule[2])
end

-- True if the amount fits into a limit beside its held units; an amount of 0 always does. Refills a bucket first.
local function has_room(v, rule, amount, held)
  if rule[1] == 1 then
    if rule[5] or v.finish > 0 then adopt(v, rule) end
    return used(v, rule) + held + amount <= (rule[6] or rule[2]) or amount == 0
  end
  reckon(v, rule[2], rule[3], rule[4])
  if rule[2] == 0 then v.met = true end
  return v.debt <= (rule[4] - held - amount) * rule[3] or amount == 0
end

local events = {}  -- for the stream of alerts: {position of the value, rule, percent, used}
local is_deaf = alerts == 1 and is_other(KEYS[#KEYS], 'stream')

-- Close the ledger's day and begin today. The closed row is written at the end. Today's row exists already if the clock
-- was wrong before.
local function turn_day(v, history, today)
  if v.day_used > 0 then v.closed = {v.day, day_row(v)} end
  begin_day(v, today, call('HGET', history, today))
  v.turned = history
end

local function is_new_day(v) return today > v.day or v.day > today + 1 end

-- True if the history or its row of today is not in our format. Reads it once a day for each caller.
local function has_bad_history(caller)
  if not is_new_day(value(caller)) then return false end
  local history = KEYS[2 * caller + 1]
  if is_other(history, 'hash') then return true end
  local row = call('HGET', history, today)
  return row and not is_row(row)
end

-- Of each limit of a request, by position: value, rule, and whether it only reports. Filled anew for each request.
local found, said, reports = {}, {}, {}

-- Check a request before it changes anything: 3 for a bad value, 2 if a quota's period does not contain now, else nil.
local function unfit(caller, request, count)
  if caller > 0 and (not value(caller) or has_bad_history(caller)) then return 3 end
  local stale
  for k = 1, count do
    local at = request[2 * k + 1]
    local rule = rules[at < 0 and -at or at]
    local v = value(request[2 * k], rule[1])
    if not v or is_deaf and #rule >= 10 then return 3 end
    if rule[1] == 1 and (now < rule[3] or now >= rule[4]) then stale = 2 end
    found[k], said[k], reports[k] = v, rule, at < 0
  end
  return stale
end

-- Count calls in the day. The row keeps the rest of the first quota.
local function meter(caller, count, calls, units, over)
  local v = value(caller)
  if is_new_day(v) then turn_day(v, KEYS[2 * caller + 1], today) end
  v.day_used, v.day_units, v.day_over = v.day_used + calls, v.day_units + units, v.day_over + over
  v.day_left, v.dirty = -1, true
  for k = 1, count do
    if said[k][1] == 1 then
      v.day_left = max(0, said[k][2] - used(found[k], said[k]))
      break
    end
  end
end

-- What this process holds from now on, {{request, calls, ends}, …}, and the number of its holds that had ended before.
local holdings, ended = process and {} or nil, 0
local hold_calls, take_all_back

-- The functions of holding are made only where a process holds: a script pays for each one that it makes.
if process then
  -- What a request takes from a limit: its cost or one. A bucket counts requests, as most do, unless its rule says units;
  -- a quota units, unless its rule says requests.
  local function amount_of(rule, cost)
    if cost ~= 1 and (rule[1] == 1) == (rule[5] == 1) then return 1 end
    return cost
  end

  -- This process's hold in a value that lasts until `ends`; nil if there is none.
  local function own_hold(v, ends)
    for _, one in ipairs(v.holds or {}) do
      if one[1] == ends and one[2] == process then return one end
    end
  end

  -- Change this process's hold of a limit by an amount, and with it the sum of all holds there.
  local function change_hold(v, one, rule, amount)
    if rule[1] == 1 then
      one[4], v.held_units = one[4] + amount, v.held_units + amount
    else
      one[3], v.held_tokens = one[3] + amount, v.held_tokens + amount
    end
    v.dirty = true
  end

  -- The hold of this process until `ends`, a new one if need be.
  local function hold_in(v, ends)
    if not v.holds then v.holds, v.edge, v.held_tokens, v.held_units = {}, 0, 0, 0 end
    local one = own_hold(v, ends)
    if not one then
      one = {ends, process, 0, 0, 0, 0}
      v.holds[#v.holds + 1] = one
    end
    return one
  end

  -- Look for alerts of the holds that were charged whole. In a later period there is nothing to look for.
  local function see_charged(request, count)
    for k = 1, count do
      local v, rule = found[k], said[k]
      if v.unseen and rule[1] == 1 and not restarts(v, rule) then use(v, rule, 0, request[2 * k], events) end
    end
  end

  local function drop_empty_holds(v)
    for i = #(v.holds or {}), 1, -1 do
      local one = v.holds[i]
      if one[3] <= 0 and one[4] <= 0 and one[5] <= 0 then table.remove(v.holds, i) end
    end
  end

  -- The calls of this cost that may be held of a limit: a quarter of its room, shared by the processes that hold there.
  local function most_calls(v, rule, cost)
    local seen, processes, held = {[process] = true}, 1, 0
    if v.holds then
      if v.edge > now then return 0 end
      for _, one in ipairs(v.holds) do
        if not seen[one[2]] then seen[one[2]], processes = true, processes + 1 end
      end
      held = rule[1] == 1 and v.held_units or v.held_tokens
    end
    local room = rule[1] == 1 and rule[2] - used(v, rule) or rule[4] - v.debt / rule[3]
    return (room - held) / (4 * processes * amount_of(rule, cost))  -- infinite for an amount of 0
  end

  -- Hold calls like a request, which was just admitted: the same number in each limit and in the usage. The ends of a
  -- process's holds are a quarter of the longest life apart, so that a value that many callers share has few of them.
  function hold_calls(i, request, result, cost)
    local caller, count = request[1], (#request - 1) / 2
    local calls, ends = wants[i], now + hold - fmod(now + hold - process, hold / 4)
    for k = 1, count do
      if reports[k] then return end
      if said[k][1] == 1 then ends = min(ends, said[k][4]) end
      calls = min(calls, most_calls(found[k], said[k], cost))
    end
    calls = floor(calls)
    if calls < 2 or ends <= now then return end
    for k = 1, count do
      local v, rule, amount = found[k], said[k], calls * amount_of(said[k], cost)
      change_hold(v, hold_in(v, ends), rule, amount)
      result[4 + k] = result[4 + k] + (rule[1] == 1 and amount or amount * rule[3])
    end
    if caller > 0 then
      local one = hold_in(value(caller), ends)
      one[5], one[6] = one[5] + calls, one[6] + calls * cost
    end
    holdings[#holdings + 1] = {i, calls, ends}
  end

  -- Charge the calls that a process has admitted from a hold, and free the others. False if the hold has ended, or a
  -- value has been lost since.
  local function take_back(request, ends, released, admitted, cost)
    local caller, count = request[1], (#request - 1) / 2
    if unfit(caller, request, count) then return false end
    see_charged(request, count)
    local over, is_whole = 0, true
    for k = 1, count do
      local v, rule, amount = found[k], said[k], amount_of(said[k], cost)
      local one = own_hold(v, ends)
      if not one then
        is_whole = is_whole and amount == 0
      else
        change_hold(v, one, rule, -released * amount)
        if rule[1] == 1 then
          over = max(over, use(v, rule, admitted * amount, request[2 * k], events))
        else
          reckon(v, v.n, v.m, 1 / 0)  -- not by the rule: it may be an old one, whose burst must not cap the debt
          v.debt = v.debt + admitted * amount * v.m
        end
      end
    end
    local ledger = caller > 0 and value(caller)
    local one = ledger and own_hold(ledger, ends)
    if one then
      one[5], one[6], ledger.dirty = one[5] - released, one[6] - released * cost, true
      if admitted > 0 then meter(caller, count, admitted, admitted * cost, over) end
      drop_empty_holds(ledger)
    end
    for k = 1, count do drop_empty_holds(found[k]) end
    return is_whole and (one or caller == 0)
  end

  function take_all_back()
    for _, one in ipairs(returns) do
      if one[2] <= now then
        returning = returning or {}
        returning[one[2]] = process
      end
    end
    for _, one in ipairs(returns) do
      if not take_back(unpack(one)) then ended = ended + 1 end
    end
    if not returning then return end
    for _, v in pairs(values) do  -- the rest of late holds is over
      if v and v.holds then read_holds(v, with_holds('', v), 0, now) end
    end
    for _, one in ipairs(returns) do
      local request = one[1]
      local count = (#request - 1) / 2
      if not unfit(request[1], request, count) then see_charged(request, count) end
    end
    returning = nil
  end
end

local function decide(request, cost)
  local caller, count = request[1], (#request - 1) / 2
  local code = unfit(caller, request, count)
  if code then return {code, 0, 0, 0} end
  local refused, wait, shadowed = 0, 0, 0
  local edge, first, is_held = 0, nil, false  -- edge: the first limit that has room but for held units
  for k = 1, count do
    local v, rule = found[k], said[k]
    local amount = cost  -- or one: of a bucket that counts requests, as most do, of a quota only if its rule says so
    if cost ~= 1 and (rule[1] == 1) == (rule[5] == 1) then amount = 1 end
    if v.holds then
      is_held = true
      -- Look for alerts, which a refusal would miss. In a later period there is nothing to look for.
      if v.unseen and rule[1] == 1 and not restarts(v, rule) then use(v, rule, 0, request[2 * k], events) end
    end
    if not has_room(v, rule, amount, 0) then
      if reports[k] then
        if shadowed == 0 then shadowed = k end
      else
        if refused == 0 then refused = k end
        local own = wait_for(v, rule, amount)
        wait = (wait < 0 or own < 0) and -1 or max(wait, own)
      end
    elseif is_held and v.holds and not reports[k]
      and not has_room(v, rule, amount, rule[1] == 1 and v.held_units or v.held_tokens) then
      if edge == 0 then edge = k end
      -- The call waits for the first of these holds to end. Until all have, nothing more is held here.
      for _, one in ipairs(v.holds) do
        if not first or one[1] < first then first = one[1] end
        v.edge = max(v.edge, one[1])
      end
      v.dirty = true
    end
  end
  local result = {refused > 0 and 1 or 0, refused, wait, shadowed}
  if refused == 0 and edge > 0 then
    result = {4, edge, first - now, 0}
  elseif refused == 0 then
    local over = 0
    for k = 1, count do
      if shadowed == 0 or not reports[k] then
        local v, rule = found[k], said[k]
        local amount = cost
        if cost ~= 1 and (rule[1] == 1) == (rule[5] == 1) then amount = 1 end
        if rule[1] == 0 then
          v.debt, v.dirty = v.debt + amount * rule[3], true
        else
          local beyond = use(v, rule, amount, request[2 * k], events)
          if beyond > over and not reports[k] then over = beyond end
        end
      end
    end
    if caller > 0 then meter(caller, count, 1, cost, over) end
  end
  for k = 1, count do
    local v, rule = found[k], said[k]
    result[4 + k] = rule[1] == 1 and used(v, rule) or v.debt
    if is_held and v.holds and result[1] == 0 then
      result[4 + k] = result[4 + k] + (rule[1] == 1 and v.held_units or v.held_tokens * rule[3])
    end
  end
  return result
end

local charged, named = {}, {}  -- results and keys of the requests with a name that this batch admits
local decide_once
if #onces > 0 then
  -- The result of an earlier admission under a request's name, in this batch or by any worker; nil if there is none.
  local function charged_before(once, request)
    local raw = stored[1 + ledgers + owned + once]
    if not raw then return charged[once] end
    local is_read, result = pcall(cmsgpack.unpack, raw)
    local is_ours = is_read and type(result) == 'table' and result[1] == 0 and #result == 4 + (#request - 1) / 2
    return is_ours and result or {3, 0, 0, 0}
  end

  function decide_once(request, cost, once)
    local result = charged_before(once, request)
    if result then return result end
    result = decide(request, cost)
    if result[1] == 0 then charged[once], named[once] = result, names[1 + ledgers + owned + once] end
    return result
  end
end

if process then take_all_back() end
local results = {}
for i, request in ipairs(requests) do
  local once, cost = onces[i] or 0, costs[i] or 1
  local result = once > 0 and decide_once(request, cost, once) or decide(request, cost)
  if wants and result[1] == 0 and (wants[i] or 0) > 0 then hold_calls(i, request, result, cost) end
  results[i] = result
end
if dry == 1 then
  holdings = {}
  local count = #requests == 1 and #results[1] - 4 or 0  -- 0 for a value that is not in our format
  for k = 1, count do
    local is_quota, seen, units, processes = said[k][1] == 1, {}, 0, 0
    for _, one in ipairs(found[k].holds or {}) do
      local part = one[is_quota and 4 or 3]
      units = units + part
      if part > 0 and not seen[one[2]] then seen[one[2]], processes = true, processes + 1 end
    end
    if units > 0 then holdings[#holdings + 1] = {k, units, processes} end
  end
  return cmsgpack.pack({'ok', now, results, holdings})
end
local reply = cmsgpack.pack(process and {'ok', now, results, holdings, ended} or {'ok', now, results})

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
  local name = names[ledger and 1 + i or 1 + ledgers - i]
  if v and v.turned then write_history(v) end
  if v and v.dirty and v.is_quota then
    write_quota(name, v, now)
  elseif v and v.dirty then
    local raw = ledger and pack_ledger(v)
      or struct.pack(BUCKET_FORMAT, BUCKET, v.debt, v.at, v.n, v.m)
    if v.holds and not ledger then raw = with_holds(raw, v) end
    call('SET', name, raw, 'PX', expiry(v, ledger))
  elseif v and v.met then
    call('PEXPIRE', name, expiry(v, ledger))
  end
end
for _, event in ipairs(events) do
  local i = event[1]
  event[1] = names[i > 0 and 1 + i or 1 + ledgers - i]
end
if events[1] then log_alerts(KEYS[#KEYS], events, now) end
for once, name in pairs(named) do call('SET', name, cmsgpack.pack(charged[once]), 'PX', ONCE_MS) end
local keep = deadline > 0 and ceil((deadline - now) / 1000) or 0
call('SET', KEYS[1], cmsgpack.pack({sequence, reply}), 'PX', max(keep, REPLY_MS))
return reply
