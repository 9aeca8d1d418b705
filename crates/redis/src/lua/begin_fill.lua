-- ARGV: now, and until when the fill may take. Answers with the fill, or nothing if there is another.
own(used, 'zset')
-- Takes nothing, and lets what follows be written without memory left, too: a fill, and what a sweeper removes, help then.
redis.call('ZREM', used, '')
local data = dataset()
for _, member in ipairs(redis.call('ZRANGEBYSCORE', used, '+inf', '+inf', 'LIMIT', 0, 100)) do
  local till = string.match(member, '^!fill (%-?%d+) ')
  if till then
    local here = string.find(member, data, 1, true)
    if here and tonumber(till) > tonumber(ARGV[1]) then return false end
    redis.call('ZREM', used, member)
  end
end
local time = redis.call('TIME')
local fill = '!fill ' .. ARGV[2] .. ' ' .. data .. ' ' .. time[1] .. ' ' .. time[2]
redis.call('ZADD', used, '+inf', fill)
return fill
