-- Two streams have an entry for each commit, whose id is the version: the changes, and the audit.
local CHANGES, LINES = 10000, 100000  -- entries that are kept, or a few more

local function text(number) return string.format('%.0f', number) end

-- Writes a commit's entries and the new head, and returns the new version. `commit` has epoch (for a store that has
-- none), tag, body (of the entry of the changes), at (µs), who and what. It must be the first of a script's writes: what
-- can fail (no memory, a stream that is ahead of the head) fails here, with nothing written.
local function log_commit(head_key, changes, audit, head, commit)
  local version = head.version + 1
  local id = text(version) .. '-0'
  redis.call('XADD', changes, 'MAXLEN', '~', CHANGES, id, 'previous', head.tag, 'tag', commit.tag, 'body', commit.body)
  redis.call('XADD', audit, 'MAXLEN', '~', LINES, id, 'at', text(commit.at), 'who', commit.who, 'what', commit.what)
  local epoch = head.epoch ~= '' and head.epoch or commit.epoch
  redis.call('HSET', head_key, 'epoch', epoch, 'version', text(version), 'tag', commit.tag)
  return version
end
