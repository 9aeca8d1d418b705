-- KEYS[2..]: hashes. ARGV: each key's member and one of its fields. A key that has none any more goes; one that has lost
-- its hash stays, for whoever looks to find that out.
own(used, 'zset')
for i = 2, #KEYS do
  if is(KEYS[i], 'hash') then
    redis.call('HDEL', KEYS[i], ARGV[2 * i - 2])
    if not is(KEYS[i], 'hash') then redis.call('ZREM', used, ARGV[2 * i - 3]) end
  end
end
return 1
