-- KEYS[2..]: hashes. ARGV: each key's member.
own(used, 'zset')
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i])
  redis.call('ZREM', used, ARGV[i - 1])
end
return 1
