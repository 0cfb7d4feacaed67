-- Holds are calls that a process may admit without asking, until a time. A ledger, a bucket or a quota's value may end
-- with them:
--   '>Bd'       5, edge (µs): until then no more is held here, since calls wait for the holds to end; 0 for none
--   '>dddddd'   of each hold: end (µs), process, tokens of the bucket, units of the quota, requests and units of the
--               usage. What a process holds until the same time, for several callers or methods, is one hold
-- A held unit is neither used nor free. A hold that its process has not given back by its end was used whole.

-- Read the holds that follow the first `size` bytes into v, and end those whose time is over: each is charged as of its
-- end. One that ends more than the longest hold ahead is of a clock that has stepped back. `unseen` are charged units of
-- the quota whose alerts use() has yet to look for. `returning`, if given, has the process and the ends of holds that it
-- gives back now: late, but no script has ended them. Returns v; false where the bytes are not ours.
local function read_holds(v, raw, size, now, returning)
  if (#raw - size) % 48 ~= 9 or raw:byte(size + 1) ~= 5 then return false end
  local holds, over = {}, {}
  v.edge, v.holds, v.held_tokens, v.held_units = struct.unpack('>d', raw, size + 2), holds, 0, 0
  if v.edge <= now or v.edge > now + 500000 then v.edge = 0 end
  for from = size + 10, #raw, 48 do
    local ends, process, tokens, units, requests, spent = struct.unpack('>dddddd', raw, from)
    local hold = {ends, process, tokens, units, requests, spent}
    if now < ends and ends <= now + 500000 or returning and returning[ends] == process then
      holds[#holds + 1], v.held_tokens, v.held_units = hold, v.held_tokens + tokens, v.held_units + units
    else
      over[#over + 1], v.dirty = hold, true
    end
  end
  table.sort(over, function(a, b) return a[1] < b[1] end)
  for _, hold in ipairs(over) do
    local ends, _, tokens, units, requests, spent = unpack(hold)
    if tokens > 0 then
      local at = math.min(ends, now)
      if at > v.at then v.debt, v.at = math.max(0, v.debt - v.n * (at - v.at)), at end
      v.debt = v.debt + tokens * v.m
    end
    if units > 0 then v.used, v.unseen = v.used + units, (v.unseen or 0) + units end
    if requests > 0 then
      v.day_used, v.day_units = v.day_used + requests, v.day_units + spent
      if v.day_left >= 0 then v.day_left = math.max(0, v.day_left - units) end
    end
  end
  return v
end

-- Returns the bytes of a value with those of its holds, if it has any.
local function with_holds(raw, v)
  if not v.holds[1] and v.edge == 0 then return raw end
  local parts = {raw, struct.pack('>Bd', 5, v.edge)}
  for i, hold in ipairs(v.holds) do parts[2 + i] = struct.pack('>dddddd', unpack(hold)) end
  return table.concat(parts)
end
