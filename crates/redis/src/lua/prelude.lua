-- What all scripts share. KEYS[1] is a sorted set of all keys that the index was told of, by last use in milliseconds.
-- The mark of completeness and the fill under way are members of it too, at infinity: so they go when it goes.
local used = KEYS[1]

local function info(section, field)
  return string.match(redis.call('INFO', section), field .. ':(%w+)') or ''
end

-- Which data these are. After a restart or a failover what was told last may be missing.
local function dataset()
  return info('server', 'run_id') .. ' ' .. info('replication', 'master_replid')
end

local function mark()
  return '!complete ' .. dataset()
end

local function is(name, kind)
  return redis.call('TYPE', name).ok == kind
end

-- Throws away what somebody else has put in the place of ours. Only then: after a script's first write Redis lets it write
-- whatever it wants, beyond maxmemory too.
local function own(name, kind)
  local found = redis.call('TYPE', name).ok
  if found ~= kind and found ~= 'none' then redis.call('UNLINK', name) end
end

-- Takes the mark and the fill away.
local function disturb()
  own(used, 'zset')
  redis.call('ZREMRANGEBYSCORE', used, '+inf', '+inf')
end
