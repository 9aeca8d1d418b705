-- KEYS[2..]: hashes. ARGV: each key's member and last use; then command, number of key, field and value of each entry.
local count = #KEYS - 1
local lost, failed = false, nil
local function attempt(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then failed = failed or reply.err end
end
own(used, 'zset')
for i = 1, count do
  local name, member, time = KEYS[i + 1], ARGV[2 * i - 1], ARGV[2 * i]
  local known = redis.call('ZSCORE', used, member)
  if known and not is(name, 'hash') then lost = true end
  own(name, 'hash')
  -- Before the fields, so that a key without them counts as lost.
  if not known or tonumber(known) < tonumber(time) then attempt('ZADD', used, time, member) end
end
for j = 2 * count + 1, #ARGV, 4 do
  attempt(ARGV[j], KEYS[tonumber(ARGV[j + 1]) + 1], ARGV[j + 2], ARGV[j + 3])
end
-- Only a first write can find no memory: then nothing is written, and who has made room tries again.
local full = failed and string.find(failed, 'OOM', 1, true)
if lost or failed and not full then disturb() end
if full then failed = 'OOM out of memory' end
if failed then return redis.error_reply(failed) end
return 1
