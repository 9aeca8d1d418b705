-- ARGV: what the names of hashes begin with, a rank to begin at, how many keys to look at, up to which size a value is left,
-- how many bytes are wanted. Empties the values of keys, those that were not used for longest first: their fields stay, and
-- the store has the values. Answers with the bytes that went, and the rank to go on at, nothing at the end.
own(used, 'zset')
redis.call('ZREM', used, '')
local rank, count, small, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local members = redis.call('ZRANGE', used, rank, rank + count - 1)
local freed = 0
for number, member in ipairs(members) do
  local name = ARGV[1] .. string.sub(member, 2)
  if string.sub(member, 1, 1) ~= '!' and is(name, 'hash') then
    for _, field in ipairs(redis.call('HKEYS', name)) do
      local size = redis.call('HSTRLEN', name, field)
      if size > small then
        redis.call('HSET', name, field, '')
        freed = freed + size
      end
    end
    if freed >= wanted then return { freed, rank + number } end
  end
end
if #members < count then return { freed } end
return { freed, rank + count }
