-- ARGV: the fill. Answers whether it was there to be ended, all the while and in the same data.
if not is(used, 'zset') or redis.call('ZREM', used, ARGV[1]) == 0 then return 0 end
if not string.find(ARGV[1], dataset(), 1, true) then return 0 end
disturb()
redis.call('ZADD', used, '+inf', mark())
return 1
