--[[
Keys in Redis's own form, as of one moment.

KEYS[1]     the head, a hash: version
KEYS[2 ..]  the keys

ARGV[1]     the version (text) at which they are wanted; '' for any

Reply       {{what DUMP tells or nil, PTTL}, …}, one a key; nil where the store has another version
]]

if ARGV[1] ~= '' and (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return false end
local kept = {}
for i = 2, #KEYS do kept[i - 1] = {redis.call('DUMP', KEYS[i]), redis.call('PTTL', KEYS[i])} end
return kept
