-- ARGV: what the names of hashes begin with, a rank to begin at, how many to look at. Forgets keys that have lost their
-- fields: the fill will tell of them again. Answers with the rank to go on at, nothing at the end.
if not is(used, 'zset') then return false end
local rank = tonumber(ARGV[2])
local members = redis.call('ZRANGE', used, rank, rank + tonumber(ARGV[3]) - 1)
if #members == 0 then return false end
for _, member in ipairs(members) do
  if string.sub(member, 1, 1) == '!' or is(ARGV[1] .. string.sub(member, 2), 'hash') then
    rank = rank + 1
  else
    redis.call('ZREM', used, member)
    redis.call('ZREM', used, mark())
  end
end
return rank
