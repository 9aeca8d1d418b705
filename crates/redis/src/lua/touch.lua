-- ARGV: a time, then members. What is not known is passed over.
own(used, 'zset')
-- Takes nothing, and lets what follows be written without memory left, too.
redis.call('ZREM', used, '')
for i = 2, #ARGV do
  redis.call('ZADD', used, 'XX', 'GT', ARGV[1], ARGV[i])
end
return 1
