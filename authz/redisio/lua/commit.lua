--[[
Commits an edit of the store, whole or not at all: only if everything that the edit has read is as it was.

KEYS[1]     the head                (layout: prelude/head.lua)
KEYS[2]     the stream of changes, and
KEYS[3]     the audit stream        (layouts: prelude/commits.lua)
KEYS[4]     unique words, a hash: word -> owner
KEYS[5]     sorted words, a sorted set of equal scores
KEYS[6]     the names of all lists, a set
KEYS[7 ..]  hashes of items (id -> JSON) and lists (sorted sets: id by the sequence of joining); `key` below is their
            position in KEYS

ARGV[1]     cmsgpack {epoch, tag, pinned, who, what, conditions, writes}
  epoch     for a store that has none
  pinned    µs of Unix time to write into the audit line, for tests; 0 for the server's clock
  conditions
    items     {{key, id, SHA-1 in hex of what it holds, or ''}, …}
    members   {{key, SHA-1 in hex of the list's ids, newest first, joined by NUL}, …}
    vacant    {{word, {owner, …}}, …}: the word has no other owner than one of these
    disjoint  {{key, key}, …}: these lists have no id in common
  writes
    sets      {{key, id, JSON}, …}
    dels      {{key, id}, …}
    joins     {{key, name of the list, id}, …}
    leaves    {{key, name of the list, id}, …}
    drops     {{key, name of the list}, …}
    words     {{word, …} added, {word, …} removed}, sorted ones
    claims    {{word, owner} …}
    releases  {word, …}
ARGV[2]     the body of the entry in the stream of changes

Reply       cmsgpack {status, number, version}; version is that of the store afterwards
  status    'done', 'lost' (something that was read has changed), 'taken' or 'overlap'
  number    position of the condition that does not hold, in `vacant` for 'taken', in `disjoint` for 'overlap'
]]
-- prelude: clock
-- prelude: head
-- prelude: commits

local epoch, tag, pinned, who, what, conditions, writes = unpack(cmsgpack.unpack(ARGV[1]))
local items, members, vacant, disjoint = unpack(conditions)
local sets, dels, joins, leaves, drops, words, claims, releases = unpack(writes)

local head = read_head(KEYS[1])

local function refused(status, number) return cmsgpack.pack({status, number, head.version}) end
local function has(list, wanted)
  for _, one in ipairs(list) do if one == wanted then return true end end
end

for number, item in ipairs(items) do
  local raw = redis.call('HGET', KEYS[item[1]], item[2])
  if (raw and redis.sha1hex(raw) or '') ~= item[3] then return refused('lost', number) end
end
for number, list in ipairs(members) do
  local ids = table.concat(redis.call('ZREVRANGE', KEYS[list[1]], 0, -1), '\0')
  if redis.sha1hex(ids) ~= list[2] then return refused('lost', number) end
end
for number, word in ipairs(vacant) do
  local owner = redis.call('HGET', KEYS[4], word[1])
  if owner and not has(word[2], owner) then return refused('taken', number) end
end
for number, pair in ipairs(disjoint) do
  if redis.call('ZINTERCARD', 2, KEYS[pair[1]], KEYS[pair[2]], 'LIMIT', 1) > 0 then return refused('overlap', number) end
end

local entry = {epoch = epoch, tag = tag, body = ARGV[2], at = clock(pinned), who = who, what = what}
local version = log_commit(KEYS[1], KEYS[2], KEYS[3], head, entry)

for _, item in ipairs(sets) do redis.call('HSET', KEYS[item[1]], item[2], item[3]) end
for _, item in ipairs(dels) do redis.call('HDEL', KEYS[item[1]], item[2]) end
for _, one in ipairs(leaves) do
  redis.call('ZREM', KEYS[one[1]], one[3])
  if redis.call('EXISTS', KEYS[one[1]]) == 0 then redis.call('SREM', KEYS[6], one[2]) end
end
for _, list in ipairs(drops) do
  redis.call('DEL', KEYS[list[1]])
  redis.call('SREM', KEYS[6], list[2])
end
local sequence = head.sequence
for _, one in ipairs(joins) do
  sequence = sequence + 1
  redis.call('ZADD', KEYS[one[1]], text(sequence), one[3])
  redis.call('SADD', KEYS[6], one[2])
end
for _, word in ipairs(words[2]) do redis.call('ZREM', KEYS[5], word) end
for _, word in ipairs(words[1]) do redis.call('ZADD', KEYS[5], 0, word) end
for _, word in ipairs(releases) do redis.call('HDEL', KEYS[4], word) end
for _, claim in ipairs(claims) do redis.call('HSET', KEYS[4], claim[1], claim[2]) end

redis.call('HSET', KEYS[1], 'sequence', text(sequence))
return cmsgpack.pack({'done', 0, version})
